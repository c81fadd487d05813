# Table 3: GHM-C and GHM-R with ResNet-101.
_base_ = ['./retinanet_r50_fpn_ghmc-ghmr_8xb2-14e_coco.py', '../_base_/backbones.py']
model = dict(backbone={{_base_.r101}})
