# The study of real photographs: as its base, with the convolutions of neck and head in bfloat16.
_base_ = './retinanet_lite0_fpn_fl-sl1_chess.py'
custom_imports = dict(imports=['studies.efficientnet_lite', 'studies.bfloat16'])
custom_hooks = [dict(type='BFloat16Hook')]
