# Table 7: the baseline, smooth L1 in both stages, δ = 1/9 in the first and 1 in the second, whose
# offsets are divided by 0.1 and 0.2.
_base_ = [
    'mmdet::_base_/models/faster-rcnn_r50_fpn.py',
    '../_base_/coco_detection.py',
    '../_base_/schedule_14e.py',
    '../_base_/box_losses.py',
]
model = dict(
    rpn_head=dict(loss_bbox={{_base_.smooth_l1}}),
    roi_head=dict(bbox_head=dict(loss_bbox=dict(type='SmoothL1Loss', beta=1.0))),
)
# The classification of the second stage is a softmax.
default_hooks = dict(
    density=dict(loss_cls='rpn_head.loss_cls', loss_bbox='roi_head.bbox_head.loss_bbox')
)
