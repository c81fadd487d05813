"""CocoIoUMetric against pycocotools, on generated images with wrong and missing detections."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from mmdet.evaluation.metrics import CocoMetric
from mmdet.registry import METRICS
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from ghm_mmdet import CocoIoUMetric
from studies.demo_data import CLASSES

STATS = ('mAP', 'mAP_50', 'mAP_75', 'mAP_s', 'mAP_m', 'mAP_l')


@pytest.fixture(scope='module')
def ann_file(demo_data: Path) -> str:
    return str(demo_data / 'annotations/train.json')


def detections(ann_file: str) -> list[dict]:
    """Jittered ground truth with some wrong classes and false positives, per image."""
    rng = np.random.default_rng(0)
    truth = json.loads(Path(ann_file).read_text(encoding='utf-8'))
    samples = []
    for image in truth['images']:
        found = [a for a in truth['annotations'] if a['image_id'] == image['id']]
        x, y, w, h = np.array([a['bbox'] for a in found], dtype=float).T
        boxes = np.stack([x, y, x + w, y + h], 1).repeat(2, 0)
        boxes += rng.normal(0, 1, boxes.shape) * rng.choice([0.3, 1, 3], (len(boxes), 1))
        labels = np.array([a['category_id'] - 1 for a in found]).repeat(2)
        wrong = rng.random(len(labels)) < 0.2
        labels[wrong] = rng.integers(0, len(CLASSES), wrong.sum())
        kept = rng.random(len(labels)) < 0.8
        predicted = dict(
            bboxes=torch.tensor(boxes[kept]),
            labels=torch.tensor(labels[kept]),
            scores=torch.tensor(rng.random(kept.sum())),
        )
        shape = (image['height'], image['width'])
        samples.append(dict(img_id=image['id'], ori_shape=shape, pred_instances=predicted))
    return samples


def evaluate(
    metric: CocoMetric, samples: list[dict], classes: tuple[str, ...] = CLASSES
) -> dict[str, float]:
    metric.dataset_meta = dict(classes=classes)
    metric.process({}, samples)
    return {k[len('coco/') :]: v for k, v in metric.evaluate(len(samples)).items()}


def pycocotools_ap(ann_file: str, samples: list[dict], iou: float | None = None) -> np.ndarray:
    """COCOeval's first six figures, or its AP at one threshold."""
    results = [
        dict(image_id=s['img_id'], category_id=int(label) + 1, score=float(score),
             bbox=[x1, y1, x2 - x1, y2 - y1])
        for s in samples
        for (x1, y1, x2, y2), label, score in zip(
            s['pred_instances']['bboxes'].tolist(), s['pred_instances']['labels'],
            s['pred_instances']['scores'])
    ]  # fmt: skip
    truth = COCO(ann_file)
    evaluation = COCOeval(truth, truth.loadRes(results), 'bbox')
    if iou is not None:
        evaluation.params.iouThrs = np.array([iou])
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    return evaluation.stats[:6] if iou is None else evaluation.stats[0]


@pytest.mark.parametrize('options', [{}, dict(use_mp_eval=True)], ids=['', 'use_mp_eval'])
def test_equals_pycocotools(ann_file: str, options: dict) -> None:
    samples = detections(ann_file)
    metric = METRICS.build(dict(type='ghm_mmdet.CocoIoUMetric', ann_file=ann_file, **options))
    metrics = evaluate(metric, samples)
    for name, value in zip(STATS, pycocotools_ap(ann_file, samples)):
        assert metrics[f'bbox_{name}'] == pytest.approx(value, abs=5.01e-4)
    at = {p: pycocotools_ap(ann_file, samples, p / 100) for p in (50, 60, 70, 80, 90)}
    assert 0 < at[90] < at[70] < at[50] < 1
    for percent, value in at.items():
        assert metrics[f'bbox_mAP_{percent}'] == pytest.approx(value, abs=5.01e-4)


def test_only_the_best_detections_of_a_class_count(ann_file: str) -> None:
    """The last of `proposal_nums`; pycocotools is given these alone."""
    samples = detections(ann_file)
    settings = dict(ann_file=ann_file, proposal_nums=(1, 2, 3))
    found = evaluate(CocoIoUMetric(**settings), samples)['bbox_mAP_60']
    for sample in samples:
        predicted = sample['pred_instances']
        best: list[int] = []
        for label in range(len(CLASSES)):
            of_class = np.flatnonzero(predicted['labels'] == label)
            best += of_class[np.argsort(-predicted['scores'][of_class].numpy())][:3].tolist()
        sample['pred_instances'] = {key: value[best] for key, value in predicted.items()}
    expected = pycocotools_ap(ann_file, samples, 0.6)
    assert found == pytest.approx(expected, abs=5.01e-4)
    default = evaluate(CocoIoUMetric(ann_file=ann_file), detections(ann_file))['bbox_mAP_60']
    assert default > expected + 0.01


def test_a_class_without_objects_does_not_count(ann_file: str, tmp_path: Path) -> None:
    content = json.loads(Path(ann_file).read_text(encoding='utf-8'))
    content['categories'].append(dict(id=len(CLASSES) + 1, name='star'))
    path = tmp_path / 'with_star.json'
    path.write_text(json.dumps(content))
    samples = detections(ann_file)
    metric = CocoIoUMetric(ann_file=str(path))
    found = evaluate(metric, samples, (*CLASSES, 'star'))
    assert metric.cat_ids == [1, 2, 3, 4]
    for percent in (60, 90):
        expected = pycocotools_ap(str(path), samples, percent / 100)
        assert found[f'bbox_mAP_{percent}'] == pytest.approx(expected, abs=5.01e-4)


def test_only_the_classes_of_the_data_set_count(ann_file: str) -> None:
    """Of a data set that has some of the file's: the mean of their AP, each by pycocotools."""
    samples = detections(ann_file)
    for sample in samples:
        kept = sample['pred_instances']['labels'] < 2
        sample['pred_instances'] = {k: v[kept] for k, v in sample['pred_instances'].items()}
    metric = CocoIoUMetric(ann_file=ann_file)
    found = evaluate(metric, samples, CLASSES[:2])['bbox_mAP_60']
    assert metric.cat_ids == [1, 2]
    of_all = pycocotools_ap(ann_file, samples, 0.6)  # the third has an AP of 0
    assert found == pytest.approx(of_all * 3 / 2, abs=5.01e-4)


def test_nothing_to_find_is_minus_one(ann_file: str, tmp_path: Path) -> None:
    content = json.loads(Path(ann_file).read_text(encoding='utf-8'))
    content['annotations'] = []
    path = tmp_path / 'empty.json'
    path.write_text(json.dumps(content))
    found = evaluate(CocoIoUMetric(ann_file=str(path)), detections(ann_file))
    assert found['bbox_mAP'] == found['bbox_mAP_60'] == found['bbox_mAP_90'] == -1


def test_adds_to_coco_metric_and_changes_nothing(ann_file: str) -> None:
    samples = detections(ann_file)
    ours = evaluate(CocoIoUMetric(ann_file=ann_file), samples)
    theirs = evaluate(CocoMetric(ann_file=ann_file), samples)
    assert theirs == {name: ours[name] for name in theirs}
    added = {'bbox_mAP_60', 'bbox_mAP_70', 'bbox_mAP_80', 'bbox_mAP_90'}
    assert ours.keys() - theirs.keys() == added


def test_proposals_have_no_ap(ann_file: str) -> None:
    settings = dict(ann_file=ann_file, metric=['proposal', 'bbox'], iou_thrs=None)
    samples = detections(ann_file)
    assert evaluate(CocoIoUMetric(**settings), samples)['bbox_mAP_60'] == pytest.approx(
        pycocotools_ap(ann_file, samples, 0.6), abs=5.01e-4
    )


def test_no_detection_is_as_coco_metric(ann_file: str) -> None:
    samples = detections(ann_file)
    for sample in samples:
        sample['pred_instances'] = {k: v[:0] for k, v in sample['pred_instances'].items()}
    assert evaluate(CocoIoUMetric(ann_file=ann_file), samples) == {}


def test_no_detection_beside_proposals_is_as_coco_metric(ann_file: str, tmp_path: Path) -> None:
    sample = detections(ann_file)[0]
    sample['pred_instances'] = {k: v[:0] for k, v in sample['pred_instances'].items()}
    truth = json.loads(Path(ann_file).read_text(encoding='utf-8'))
    truth['images'] = [x for x in truth['images'] if x['id'] == sample['img_id']]
    truth['annotations'] = [x for x in truth['annotations'] if x['image_id'] == sample['img_id']]
    (tmp_path / 'one.json').write_text(json.dumps(truth), encoding='utf-8')
    settings = dict(ann_file=str(tmp_path / 'one.json'), metric=['proposal_fast', 'bbox'])
    theirs = evaluate(CocoMetric(**settings), [sample])
    assert theirs and evaluate(CocoIoUMetric(**settings), [sample]) == theirs


def test_format_only_writes_the_submission(ann_file: str, tmp_path: Path) -> None:
    samples = detections(ann_file)
    prefix = str(tmp_path / 'detections')
    metric = CocoIoUMetric(ann_file=ann_file, format_only=True, outfile_prefix=prefix)
    assert evaluate(metric, samples) == {}
    written = json.loads((tmp_path / 'detections.bbox.json').read_text(encoding='utf-8'))
    assert len(written) == sum(len(s['pred_instances']['labels']) for s in samples)
    assert written[0].keys() == {'image_id', 'category_id', 'bbox', 'score'}
