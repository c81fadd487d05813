# Several processes on the CPU (launcher pytorch): gloo, and models that have no device number.
custom_imports = dict(imports=['ghm_mmdet.gloo'])
model_wrapper_cfg = dict(type='MMDistributedDataParallel', device_ids=None, broadcast_buffers=False)
