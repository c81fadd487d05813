"""What this repository measures: `python -m studies.<name> run`, then `report`."""
