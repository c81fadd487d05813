# The demo with the formula for small data sets: a unit region counts as at least 30 examples.
_base_ = './retinanet_r18_fpn_ghmc-ghmr_demo.py'
model = dict(bbox_head=dict(loss_cls=dict(formula='floored'), loss_bbox=dict(formula='floored')))
