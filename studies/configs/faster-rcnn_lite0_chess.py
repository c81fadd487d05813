# Faster R-CNN.
_base_ = ['mmdet::_base_/models/faster-rcnn_r50_fpn.py', './chess_detection.py']
model = dict(
    **_base_.two_stages,
    roi_head=dict(
        bbox_roi_extractor=dict(out_channels=96, featmap_strides=[8, 16, 32, 64]),
        bbox_head=dict(in_channels=96, fc_out_channels=256, num_classes=12),
    ),
    train_cfg=dict(rpn_proposal=dict(max_per_img=300), rcnn=dict(sampler=dict(num=128))),
    test_cfg=dict(rpn=dict(max_per_img=300)),
)
