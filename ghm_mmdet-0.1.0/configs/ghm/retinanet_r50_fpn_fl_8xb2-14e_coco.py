# Table 4: focal loss with its best parameters (γ = 2, α = 0.25).
_base_ = [
    'mmdet::_base_/models/retinanet_r50_fpn.py',
    '../_base_/coco_detection.py',
    '../_base_/schedule_14e.py',
    '../_base_/box_losses.py',
]
model = dict(bbox_head=dict(loss_bbox={{_base_.smooth_l1}}))
