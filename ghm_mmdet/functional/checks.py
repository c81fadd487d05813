"""Checks of tensors: each error names the argument, its value and what is allowed."""

import torch
from torch import Tensor


def check_floating(name: str, value: object) -> None:
    if not isinstance(value, Tensor):
        raise TypeError(f'{name} must be a Tensor, got {type(value).__name__}')
    if not value.is_floating_point():
        raise TypeError(f'{name} must be a floating-point Tensor, got {value.dtype}')


def check_same_shape(name: str, value: object, like_name: str, like: Tensor) -> None:
    if not isinstance(value, Tensor):
        raise TypeError(f'{name} must be a Tensor, got {type(value).__name__}')
    if value.shape != like.shape:
        raise ValueError(
            f'{name} must have the shape of {like_name}, {tuple(like.shape)}, '
            f'got {tuple(value.shape)}'
        )


def is_label_dtype(dtype: torch.dtype) -> bool:
    return not (dtype.is_floating_point or dtype.is_complex or dtype == torch.bool)
