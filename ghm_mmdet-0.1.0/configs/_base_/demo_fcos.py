# FCOS with two convolutions: what the demo's and the studies' share.
_base_ = './demo_dense_head.py'
model = dict(
    type='FCOS',
    bbox_head=dict(type='FCOSHead', loss_bbox=dict(type='IoULoss', loss_weight=1.0)),
)
