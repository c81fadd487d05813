# The demo on two processes of the CPU, with one density for all levels of both.
_base_ = ['./retinanet_r18_fpn_ghmc-ghmr-batch_demo.py', '../_base_/gloo.py']
model = dict(bbox_head=dict(loss_cls=dict(sync=True), loss_bbox=dict(sync=True)))
train_dataloader = dict(batch_size=4)
