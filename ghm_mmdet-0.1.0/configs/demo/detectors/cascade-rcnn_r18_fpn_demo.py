_base_ = ['mmdet::_base_/models/cascade-rcnn_r50_fpn.py', '../../_base_/demo_detector.py']
model = dict(
    **_base_.two_stages,
    roi_head=dict(
        bbox_roi_extractor=dict(out_channels=64, featmap_strides=[8, 16, 32]),
        bbox_head=[
            dict(stage, in_channels=64, fc_out_channels=128, num_classes=3)
            for stage in _base_.model.roi_head.bbox_head
        ],
    ),
    train_cfg=dict(
        rpn_proposal=dict(nms_pre=300, max_per_img=100),
        rcnn=[
            dict(stage, sampler=dict(stage.sampler, num=32))
            for stage in _base_.model.train_cfg.rcnn
        ],
    ),
    test_cfg=dict(rpn=dict(nms_pre=300, max_per_img=100)),
)
