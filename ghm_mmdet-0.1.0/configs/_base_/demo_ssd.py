# SSD on four levels: what the demo's and the studies' share.
_base_ = 'mmdet::_base_/models/ssd300.py'
model = dict(
    bbox_head=dict(
        anchor_generator=dict(
            _delete_=True,
            type='SSDAnchorGenerator',
            scale_major=False,
            strides=[8, 16, 32, 64],
            ratios=[[2], [2], [2], [2]],
        ),
    ),
)
# The levels that the neck adds to those of the backbone.
ssd_neck = dict(level_strides=(2,), level_paddings=(1,), l2_norm_scale=None)
