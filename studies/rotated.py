"""MMRotate for the study of compatibility: configs, models, a training step of each head."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

from mmdet.registry import MODELS
from mmdet.utils import register_all_modules
from mmengine.config import Config, ConfigDict
from mmengine.registry import DefaultScope
from torch import nn

from ghm_mmdet.swap import harmonize

from .tiny_step import PRESET, dicts, small_model, training_step

#: The config that takes a training step for the heads of its type, by its path among MMRotate's.
REPRESENTATIVES = {
    'AngleBranchRetinaHead': 'csl/rotated-retinanet-rbox-le90_r50_fpn_csl-gaussian_amp-1x_dota.py',
    'GVBBoxHead': 'gliding_vertex/gliding-vertex-qbox_r50_fpn_1x_dota.py',
    'H2RBoxHead': 'h2rbox/h2rbox-le90_r50_fpn_adamw-1x_dota.py',
    'H2RBoxV2Head': 'h2rbox_v2/h2rbox_v2-le90_r50_fpn-1x_dota.py',
    'OrientedRPNHead': 'oriented_rcnn/oriented-rcnn-le90_r50_fpn_1x_dota.py',
    'R3Head': 'r3det/r3det-oc_r50_fpn_1x_dota.py',
    'R3RefineHead': 'r3det/r3det-oc_r50_fpn_1x_dota.py',
    'RPNHead': 'rotated_faster_rcnn/rotated-faster-rcnn-le90_r50_fpn_1x_dota.py',
    'RetinaHead': 'rotated_retinanet/rotated-retinanet-rbox-le90_r50_fpn_1x_dota.py',
    'RotatedATSSHead': 'rotated_atss/rotated-atss-le90_r50_fpn_1x_dota.py',
    'RotatedFCOSHead': 'rotated_fcos/rotated-fcos-hbox-le90_r50_fpn_1x_dota.py',
    'RotatedRTMDetSepBNHead': 'rotated_rtmdet/rotated_rtmdet_tiny-3x-dota.py',
    'RotatedRepPointsHead': 'rotated_reppoints/rotated-reppoints-qbox_r50_fpn_1x_dota.py',
    'RotatedRetinaHead': 'r3det/r3det-tiny-oc_r50_fpn_1x_dota.py',
    'RotatedShared2FCBBoxHead': 'kfiou/roi-trans-le90_r50_fpn_kfiou-ln_1x_dota.py',
    'S2AHead': 's2anet/s2anet-le90_r50_fpn_1x_dota.py',
    'S2ARefineHead': 's2anet/s2anet-le90_r50_fpn_1x_dota.py',
    'SAMRepPointsHead': 'sasm_reppoints/sasm-reppoints-qbox_r50_fpn_1x_dota.py',
    'Shared2FCBBoxHead': 'roi_trans/roi-trans-le90_r50_fpn_1x_dota.py',
}


def configs() -> Path:
    """The folder of MMRotate's configs."""
    import mmrotate

    return Path(mmrotate.__file__).parent / '.mim/configs'


def build(model: ConfigDict) -> nn.Module:
    register_all_modules(init_default_scope=False)
    _import_modules()
    with DefaultScope.overwrite_default_scope('mmrotate'):
        return MODELS.build(model)


def step(config: str) -> dict[str, float]:
    """Harmonize the config, make it small, take a training step; see `training_step`."""
    cfg = harmonize(configs() / config, preset=PRESET)
    return training_step(build(small(cfg)), batch=random_batch(cfg))


def small(cfg: Config) -> ConfigDict:
    """The model made small, with losses that the CPU computes."""
    model = small_model(cfg)
    for node in dicts(model):
        # mmcv has its operator for CUDA alone; `harmonize` keeps either loss.
        if node.get('type') == 'RotatedIoULoss':
            node.clear()
            node.update(type='GDLoss_v1', loss_type='kld')
    return model


def random_batch(cfg: Config, boxes: int = 10) -> dict:
    """Two random images of 128 pixels, each with so many boxes of the form that a config loads."""
    from mmrotate.testing import demo_mm_inputs

    steps = dicts(cfg.train_dataloader)
    rotated = any(step.get('type') == 'ConvertBoxType' for step in steps)
    return demo_mm_inputs(
        2, [(3, 128, 128)] * 2, num_items=[boxes, boxes], num_classes=4,
        use_box_type=True, use_qbox=not rotated,
    )  # fmt: skip


def _import_modules() -> None:
    """Register MMRotate's modules.

    One of them needs torchvision for a flip, and the wheel of torchvision can't be imported
    beside a CPU build of PyTorch: a module that has the flip alone stands in for it.
    """
    try:
        import torchvision  # noqa: F401
    except (ImportError, RuntimeError):
        flip = SimpleNamespace(vflip=lambda images: images.flip(-2))
        stand_in = ModuleType('torchvision')
        stand_in.transforms = SimpleNamespace(functional=flip)
        sys.modules['torchvision'] = stand_in
        try:
            import mmrotate.models  # noqa: F401
        finally:
            del sys.modules['torchvision']
