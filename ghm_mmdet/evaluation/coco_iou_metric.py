"""COCO's metrics and, beside them, AP at single IoU thresholds (Table 6)."""

from collections.abc import Callable
from unittest import mock

import numpy as np
from mmdet.evaluation.metrics import CocoMetric, coco_metric

from ..registry import METRICS

#: The thresholds of Table 6, in percent.
PERCENTS = (50, 60, 70, 80, 90)


@METRICS.register_module()
class CocoIoUMetric(CocoMetric):
    """`CocoMetric` that also reports AP at IoU 0.5, 0.6, 0.7, 0.8 and 0.9.

    They come from the same evaluation, as `bbox_mAP_50`, `bbox_mAP_60` and so on, fractions
    rounded to three digits as the others; -1 where there is no ground truth.

    Args: as `CocoMetric`; `iou_thrs`, if given, must contain the five thresholds.

    Raises:
        ValueError: A threshold is missing from `iou_thrs`.
    """

    def __init__(self, *args: object, **kwargs: object) -> None:
        super().__init__(*args, **kwargs)
        self.iou_thrs = np.atleast_1d(self.iou_thrs)
        for percent in PERCENTS:
            if not np.isclose(self.iou_thrs, percent / 100).any():
                raise ValueError(
                    f'iou_thrs must contain {percent / 100}, got {self.iou_thrs.tolist()}'
                )

    def compute_metrics(self, results: list) -> dict[str, float]:
        evaluations: list = []
        # CocoMetric does not give them away.
        makers = ('COCOeval', 'COCOevalMP')
        keeping = {name: _keeping(getattr(coco_metric, name), evaluations) for name in makers}
        with mock.patch.multiple(coco_metric, **keeping):
            metrics = super().compute_metrics(results)
        for evaluation in evaluations:
            if not evaluation.params.useCats:
                continue  # the recall of proposals
            for percent in PERCENTS:
                name = f'{evaluation.params.iouType}_mAP_{percent}'
                metrics[name] = round(average_precision(evaluation, percent / 100), 3)
        return metrics


def average_precision(evaluation: 'coco_metric.COCOeval', iou: float) -> float:
    """AP at one IoU threshold, over all areas, from an accumulated `COCOeval`."""
    threshold = np.flatnonzero(np.isclose(evaluation.params.iouThrs, iou))
    # precision: (threshold, recall, class, area, number of detections)
    precision = evaluation.eval['precision'][threshold, :, :, 0, -1]
    precision = precision[precision > -1]
    return float(precision.mean()) if precision.size else -1.0


def _keeping(make: Callable, kept: list) -> Callable:
    """A function that makes the same and keeps it in a list."""

    def make_and_keep(*args: object) -> object:
        kept.append(make(*args))
        return kept[-1]

    return make_and_keep
