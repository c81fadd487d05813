"""One training step of a config made small: few channels, small random images, on the CPU."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mmdet
import torch
from mmdet.registry import MODELS
from mmdet.testing import demo_mm_inputs, demo_track_inputs
from mmdet.utils import register_all_modules
from mmengine.config import Config, ConfigDict
from mmengine.logging import MessageHub
from torch import nn

from ghm_mmdet.losses import GHMC, GHMR
from ghm_mmdet.swap.find import name_of

CONFIGS = Path(mmdet.__file__).parent / '.mim/configs'
#: It replaces every loss that `harmonize` can; the default keeps those of a softmax.
PRESET = 'released'
#: The keys that hold numbers of channels.
CHANNELS = (
    'in_channels', 'out_channels', 'feat_channels', 'conv_out_channels', 'fc_out_channels',
    'out_conv_channels', 'embed_dims', 'feedforward_channels', 'num_feats', 'point_feat_channels',
    'conv_feat_channels', 'proposal_feature_channel', 'cls_in_channels', 'reg_in_channels',
    'reg_offset_out_channels', 'reg_cls_out_channels', 'input_feat_channels',
)  # fmt: skip
#: Numbers of channels that configs leave to the class.
DEFAULT_CHANNELS = dict.fromkeys(('ResNet', 'ResNetV1d'), ('base_channels', 64)) | dict.fromkeys(
    ('DeformableDETRHead', 'DINOHead', 'DDQDETRHead'), ('embed_dims', 256)
)
#: Numbers of channels below are those of images, masks and the like.
FEW = 64
#: Proposals of an image that are sampled for training.
MOST_SAMPLES = 32


def small_model(cfg: Config, factor: int = 8) -> ConfigDict:
    """The model with channels divided by a factor, few samples and no pretrained weights."""
    model = copy.deepcopy(cfg.model)
    for node in dicts(model):
        _simplify(node)
        if factor > 1:
            _divide_channels(node, factor)
    if isinstance(model.get('teacher_config'), str):
        teacher = Config.fromfile(CONFIGS.parent / model.teacher_config)
        model.teacher_config = Config(dict(model=small_model(teacher, factor)))
        model.teacher_ckpt = None
    return model


def has_masks(cfg: Config) -> bool:
    """Whether the training of a config loads masks."""
    return any(node.get('with_mask') for node in dicts(cfg.get('train_dataloader', {})))


def build(model: ConfigDict) -> nn.Module:
    register_all_modules(init_default_scope=True)
    return MODELS.build(model)


def dicts(node: Any) -> Iterator[dict]:
    """Every dict of nested dicts and lists, the outer ones first."""
    if isinstance(node, dict):
        yield node
        node = list(node.values())
    if isinstance(node, (list, tuple)):
        for value in node:
            yield from dicts(value)


def _type(node: dict) -> str:
    return name_of(node) if 'type' in node else ''


def _simplify(node: dict) -> None:
    # Weights to download; images padded to the size of training.
    for key in ('pretrained', 'batch_augments'):
        if node.get(key) is not None:
            node[key] = None
    if isinstance(node.get('init_cfg'), dict) and node['init_cfg'].get('type') == 'Pretrained':
        node['init_cfg'] = None
    if _type(node) == 'RandomSampler' and 'num' in node:
        node['num'] = min(node['num'], MOST_SAMPLES)
    # It needs several processes.
    if node.get('type') in ('SyncBN', 'MMSyncBN'):
        node['type'] = 'BN'


def _divide_channels(node: dict, factor: int) -> None:
    for key in CHANNELS:
        if key in node:
            node[key] = _divided(node[key], factor)
    key, value = DEFAULT_CHANNELS.get(_type(node), (None, 0))
    if key is not None and key not in node:
        node[key] = value // factor
    if 'widen_factor' in node and _type(node) in ('CSPDarknet', 'CSPNeXt'):
        node['widen_factor'] /= factor


def _divided(value: Any, factor: int) -> Any:
    if isinstance(value, (list, tuple)):
        return type(value)(_divided(item, factor) for item in value)
    return value // factor if isinstance(value, int) and value >= FEW else value


def training_step(
    model: nn.Module, size: int = 128, with_mask: bool = False, batch: dict | None = None
) -> dict[str, float]:
    """One step on a batch; by default on two random images of `size` pixels.

    Returns:
        The largest absolute gradient of each head that has a GHM loss.

    Raises:
        ValueError: The loss or a gradient is not finite, a GHM loss was not called, or a head
            with one has no gradient.
    """
    torch.manual_seed(0)
    model.init_weights()
    model.train()
    # BoxInst and YOLOX look them up.
    MessageHub.get_current_instance().update_info_dict(dict(iter=0, epoch=0, max_iters=1))
    losses = {name: m for name, m in model.named_modules() if isinstance(m, (GHMC, GHMR))}
    called: set[nn.Module] = set()
    for loss in losses.values():
        loss.register_forward_pre_hook(lambda loss, _: called.add(loss))
    data = model.data_preprocessor(batch or random_batch(model, size, with_mask), True)
    total, parts = model.parse_losses(model(**data, mode='loss'))
    if not torch.isfinite(total):
        raise ValueError(f'the loss is not finite: {parts}')
    total.backward()
    # YOLOX calls its L1 loss only in the last epochs.
    silent = [name for name, m in losses.items() if m not in called and 'loss_l1' not in name]
    if silent:
        raise ValueError(f'not called: {", ".join(silent)}')
    heads = {name.rpartition('.')[0] for name in losses}
    return {name: _largest_gradient(name, model.get_submodule(name)) for name in sorted(heads)}


def _largest_gradient(name: str, head: nn.Module) -> float:
    gradients = [p.grad.abs().max() for p in head.parameters() if p.grad is not None]
    largest = torch.stack(gradients).max().item() if gradients else 0.0
    if not math.isfinite(largest):
        raise ValueError(f'a gradient of {name} is not finite')
    if largest == 0:
        raise ValueError(f'{name} has no gradient')
    return largest


def random_batch(model: nn.Module, size: int, with_mask: bool, boxes: int = 10) -> dict:
    if 'Video' in type(model).__name__:
        return demo_track_inputs(
            batch_size=1, num_frames=2, image_shapes=(3, size, size), num_items=[boxes],
            num_classes=4, with_mask=with_mask,
        )  # fmt: skip
    return demo_mm_inputs(
        2, [(3, size, size)] * 2, num_items=[boxes, boxes], num_classes=4,
        with_mask=with_mask, with_semantic=with_mask,
    )  # fmt: skip
