"""The demo's data and page; figures and tables."""
