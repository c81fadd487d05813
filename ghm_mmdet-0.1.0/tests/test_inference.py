"""The loss leaves inference untouched: MMDetection's inferencer, and export."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from mmdet.apis import DetInferencer, init_detector
from mmdet.registry import DATASETS
from mmdet.utils import register_all_modules
from mmengine.config import Config
from torch import Tensor, nn

from .training import GHM_CONFIG

FOCAL_CONFIG = GHM_CONFIG.with_name('retinanet_r18_fpn_fl-sl1_demo.py')
BCCD_CONFIG = GHM_CONFIG.parents[1] / 'bccd/retinanet_r18_fpn_fl-sl1_bccd.py'


@pytest.fixture(scope='module')
def checkpoint(ghm_training: Path) -> Path:
    return ghm_training / 'iter_50.pth'


def config_giving_every_box(path: Path) -> Config:
    """A detector of 50 iterations is sure of nothing."""
    config = Config.fromfile(path)
    config.model.test_cfg.score_thr = 0
    return config


def detector(path: Path, checkpoint: Path) -> nn.Module:
    return init_detector(config_giving_every_box(path), str(checkpoint), device='cpu')


def feature_maps(output: tuple[list[Tensor], list[Tensor]]) -> list[Tensor]:
    return [tensor for maps in output for tensor in maps]


def test_inferencer_predicts_as_with_focal_loss(checkpoint: Path, demo_data: Path) -> None:
    """The weights of GHM in the config of focal loss + smooth L1: the same boxes, to the bit."""
    images = [str(path) for path in sorted((demo_data / 'val').iterdir())[:3]]
    found = []
    for path in (GHM_CONFIG, FOCAL_CONFIG):
        inferencer = DetInferencer(config_giving_every_box(path), str(checkpoint), device='cpu')
        assert inferencer.model.dataset_meta['classes'] == ('disk', 'square', 'triangle')
        found.append(inferencer(images, no_save_vis=True)['predictions'])
    with_ghm, with_focal = found
    assert all(len(of_image['scores']) > 50 for of_image in with_ghm)
    assert with_ghm == with_focal


def test_inferencer_writes_pictures(checkpoint: Path, demo_data: Path, tmp_path: Path) -> None:
    image = next((demo_data / 'val').iterdir())
    inferencer = DetInferencer(config_giving_every_box(GHM_CONFIG), str(checkpoint), device='cpu')
    inferencer(str(image), out_dir=str(tmp_path), no_save_pred=False)
    assert (tmp_path / 'vis' / image.name).stat().st_size > 0
    assert (tmp_path / 'preds' / f'{image.stem}.json').exists()


@pytest.mark.parametrize('path', [FOCAL_CONFIG, BCCD_CONFIG], ids=lambda path: path.stem)
def test_ground_truth_is_in_the_frame_of_the_original_image(path: Path, demo_data: Path) -> None:
    """In which `mim test --show-dir` draws it, beside predictions that are scaled back."""
    register_all_modules()
    settings = Config.fromfile(path).test_dataloader.dataset
    demo = Config.fromfile(FOCAL_CONFIG).test_dataloader.dataset
    settings.update({key: demo[key] for key in ('ann_file', 'data_prefix', 'metainfo')})
    settings.data_root = str(demo_data)
    for transform in settings.pipeline:
        if transform.type == 'Resize':
            transform.scale = (80, 80)
    data = DATASETS.build(settings)
    sample = data[0]['data_samples']
    assert sample.img_shape == (80, 80)
    annotated = [instance['bbox'] for instance in data.get_data_info(0)['instances']]
    assert torch.equal(sample.gt_instances.bboxes.tensor, torch.tensor(annotated))


def test_checkpoint_differs_from_focal_losses_by_the_buffers(checkpoint: Path) -> None:
    with_ghm, with_focal = (
        set(detector(path, checkpoint).state_dict()) for path in (GHM_CONFIG, FOCAL_CONFIG)
    )
    assert with_focal < with_ghm
    assert with_ghm - with_focal == {
        *(f'bbox_head.{loss}.edges' for loss in ('loss_cls', 'loss_bbox')),
        'bbox_head.loss_cls.acc_sum',
        'bbox_head.loss_bbox.mean_d',
    }


def test_export_runs_the_operators_of_focal_loss(checkpoint: Path) -> None:
    """`torch.export` of the forward in mode 'tensor', which deployment exports."""
    image = torch.rand(1, 3, 160, 160, generator=torch.Generator().manual_seed(0))
    operators = []
    for path in (GHM_CONFIG, FOCAL_CONFIG):
        model = detector(path, checkpoint)
        program = torch.export.export(model, (image,))
        operators.append(
            [node.format_node() for node in program.graph.nodes if node.op == 'call_function']
        )
        exported = feature_maps(program.module()(image))
        for by_program, by_model in zip(exported, feature_maps(model(image))):
            torch.testing.assert_close(by_program, by_model)
    assert len(operators[0]) > 50
    assert operators[0] == operators[1]


def test_torch_script_of_a_detector_trained_with_ghm(checkpoint: Path) -> None:
    """Traced with GHM, it answers for another image as the detector with focal loss does."""
    first, second = torch.rand(2, 1, 3, 160, 160, generator=torch.Generator().manual_seed(1))
    traced = torch.jit.trace(detector(GHM_CONFIG, checkpoint), (first,))
    with torch.no_grad():
        expected = feature_maps(detector(FOCAL_CONFIG, checkpoint)(second))
        for by_trace, by_model in zip(feature_maps(traced(second)), expected):
            torch.testing.assert_close(by_trace, by_model)
