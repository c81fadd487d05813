# The demo on two processes of the CPU (launcher pytorch), with one density for all levels of both:
# gloo, and models that have no device number.
_base_ = '../../configs/demo/retinanet_r18_fpn_ghmc-ghmr-batch_demo.py'
custom_imports = dict(imports=['tests.gloo'])
model_wrapper_cfg = dict(type='MMDistributedDataParallel', device_ids=None, broadcast_buffers=False)
model = dict(bbox_head=dict(loss_cls=dict(sync=True), loss_bbox=dict(sync=True)))
train_dataloader = dict(batch_size=4)
