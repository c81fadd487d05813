# Table 7: GHM-R in the second stage; the paper does not give its settings. M, α and μ are
# RetinaNet's. The weight keeps RetinaNet's ratio to smooth L1: there 10 replaces the
# sum over 4 offsets, 4 times their mean; here that sum is divided by all samples, of which a
# quarter are positive at most, so that it is once the mean.
_base_ = ['./faster-rcnn_r50_fpn_sl1_8xb2-14e_coco.py', '../_base_/ghm_losses.py']
model = dict(roi_head=dict(bbox_head=dict(loss_bbox=dict(_base_.ghm_r, loss_weight=2.5))))
