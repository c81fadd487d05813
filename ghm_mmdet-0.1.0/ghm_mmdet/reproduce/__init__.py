"""Experiments with configs, and the paper's tables made of them."""

#: For which the configs' batch of 16 is, 2 images on each.
GPUS = 8
