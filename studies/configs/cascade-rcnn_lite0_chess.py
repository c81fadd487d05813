# Cascade R-CNN.
_base_ = ['mmdet::_base_/models/cascade-rcnn_r50_fpn.py', './chess_detection.py']
model = dict(
    **_base_.two_stages,
    roi_head=dict(
        bbox_roi_extractor=dict(out_channels=96, featmap_strides=[8, 16, 32, 64]),
        bbox_head=[
            dict(stage, in_channels=96, fc_out_channels=256, num_classes=12)
            for stage in _base_.model.roi_head.bbox_head
        ],
    ),
    train_cfg=dict(
        rpn_proposal=dict(max_per_img=300),
        rcnn=[
            dict(stage, sampler=dict(stage.sampler, num=128))
            for stage in _base_.model.train_cfg.rcnn
        ],
    ),
    test_cfg=dict(rpn=dict(max_per_img=300)),
)
