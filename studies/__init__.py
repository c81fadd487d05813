"""What this repository measures: `python -m studies.<name> run`, then `report`. Not in the wheel."""
