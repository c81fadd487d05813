# Table 3: focal loss and smooth L1 with ResNeXt-101-32x8d.
_base_ = ['./retinanet_r50_fpn_fl_8xb2-14e_coco.py', '../_base_/backbones.py']
model = dict(backbone={{_base_.x101_32x8d}})
