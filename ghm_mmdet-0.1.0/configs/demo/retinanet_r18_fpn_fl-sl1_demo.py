_base_ = [
    '../_base_/demo_retinanet.py',
    '../_base_/demo_detection.py',
    '../_base_/demo_schedule.py',
]
