# COCO test-dev has no public labels: the detections go into a file for the evaluation server.

test_dev_images = dict(
    ann_file='annotations/image_info_test-dev2017.json',
    data_prefix=dict(img='test2017/'),
)
test_dev_ann_file = __import__('os').path.join(
    __import__('os').path.expanduser('{{$COCO_ROOT:data/coco/}}'),
    'annotations/image_info_test-dev2017.json',
)
