"""Experiments with configs, and the paper's tables made of them."""
