"""What the losses cost: `python -m benchmarks.losses`. Not in the wheel."""
