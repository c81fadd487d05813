"""COCO's metrics and, beside them, AP at single IoU thresholds (Table 6)."""

from __future__ import annotations

from tempfile import TemporaryDirectory

import numpy as np
from mmdet.datasets.api_wrappers import COCOeval
from mmdet.evaluation.metrics import CocoMetric

from ..registry import METRICS

#: The thresholds of Table 6 that `CocoMetric` does not report, in percent.
PERCENTS = (60, 70, 80, 90)


@METRICS.register_module()
class CocoIoUMetric(CocoMetric):
    """`CocoMetric` that also reports AP at IoU 0.6, 0.7, 0.8 and 0.9.

    Of boxes; they come from a second evaluation, as `bbox_mAP_60` and so on, fractions rounded
    to three digits as the others; -1 where there is no ground truth.

    Args: as `CocoMetric`.

    Examples:
        In a config:

            val_evaluator = dict(type='ghm_mmdet.CocoIoUMetric', ann_file='val.json')
    """

    def compute_metrics(self, results: list) -> dict[str, float]:
        """COCO's metrics, and `bbox_mAP_60` to `bbox_mAP_90` if 'bbox' is one of `metric`.

        Args:
            results: Of each image, the ground truth and the detections, as `process` leaves them.
        """
        metrics = super().compute_metrics(results)
        # Not format_only, and something was detected.
        if any(name.startswith('bbox_') for name in metrics):
            with TemporaryDirectory() as folder:
                files = self.results2json([pred for _, pred in results], f'{folder}/results')
                metrics.update(self._precision_at_thresholds(files['bbox']))
        return metrics

    def _precision_at_thresholds(self, detections: str) -> dict[str, float]:
        evaluation = COCOeval(self._coco_api, self._coco_api.loadRes(detections), 'bbox')
        evaluation.params.catIds = self.cat_ids
        evaluation.params.maxDets = list(self.proposal_nums)
        evaluation.params.iouThrs = np.array(PERCENTS) / 100
        evaluation.evaluate()
        evaluation.accumulate()
        # (threshold, recall, class, area, number of detections); -1 of a class without objects
        precision = evaluation.eval['precision'][:, :, :, 0, -1]
        found = [of_threshold[of_threshold > -1] for of_threshold in precision]
        ap = [float(of_threshold.mean()) if of_threshold.size else -1.0 for of_threshold in found]
        return {f'bbox_mAP_{percent}': round(x, 3) for percent, x in zip(PERCENTS, ap)}
