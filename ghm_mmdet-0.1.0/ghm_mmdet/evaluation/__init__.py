"""The metrics that configs name: `type='ghm_mmdet.CocoIoUMetric'`."""

from .coco_iou_metric import CocoIoUMetric

__all__ = ['CocoIoUMetric']
