# Tables 2 and 4: cross entropy, weight 20, bias prior π = 0.01 (RetinaHead's default). It is the
# mean over all examples, GHM-C with one unit region (β = 1). MMDetection's CrossEntropyLoss would
# be divided by the number of positives instead, and begin thousands of times higher.
_base_ = './retinanet_r50_fpn_ghmc_8xb2-14e_coco.py'
model = dict(bbox_head=dict(loss_cls=dict(bins=1, momentum=0, loss_weight=20.0)))
