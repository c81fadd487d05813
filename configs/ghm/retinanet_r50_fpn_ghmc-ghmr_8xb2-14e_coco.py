# Tables 5 and 6: GHM-C and GHM-R.
_base_ = [
    'mmdet::_base_/models/retinanet_r50_fpn.py',
    '../_base_/coco_detection.py',
    '../_base_/schedule_14e.py',
    '../_base_/ghm_losses.py',
]
model = dict(bbox_head=dict(loss_cls={{_base_.ghm_c}}, loss_bbox={{_base_.ghm_r}}))
