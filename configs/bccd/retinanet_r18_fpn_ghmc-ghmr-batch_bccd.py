# GHM-C and GHM-R with one density for all FPN levels.
_base_ = './retinanet_r18_fpn_ghmc-ghmr_bccd.py'
model = dict(bbox_head=dict(type='ghm_mmdet.GHMRetinaHead'))
