# Table 3: the detections for COCO's evaluation server; for `mim test` alone.
_base_ = ['./retinanet_x101-32x8d_fpn_ghmc-ghmr_8xb2-14e_coco.py', '../_base_/coco_test_dev.py']
test_dataloader = dict(dataset={{_base_.test_dev_images}})
test_evaluator = dict(
    ann_file={{_base_.test_dev_ann_file}},
    format_only=True,
    outfile_prefix='work_dirs/{{fileBasenameNoExtension}}/detections',
)
