# The demo with GHM-C and GHM-R.
_base_ = ['./retinanet_r18_fpn_fl-sl1_demo.py', '../_base_/ghm_losses.py']
model = dict(
    bbox_head=dict(loss_cls={{_base_.tempered_ghm_c}}, loss_bbox={{_base_.tempered_ghm_r}})
)
custom_hooks = [dict(type='ghm_mmdet.GradientDensityHook', interval=100, iters=10)]
