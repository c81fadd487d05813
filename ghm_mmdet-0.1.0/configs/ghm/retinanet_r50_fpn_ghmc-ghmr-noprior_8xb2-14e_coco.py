# "Our approach doesn't need a specialized bias initialization": every bias starts at 0, p at 0.5.
# The other configs keep RetinaHead's prior π = 0.01, as the released code does.
_base_ = './retinanet_r50_fpn_ghmc-ghmr_8xb2-14e_coco.py'
model = dict(bbox_head=dict(init_cfg=dict(type='Normal', layer='Conv2d', std=0.01)))
