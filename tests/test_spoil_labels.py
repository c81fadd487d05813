"""Spoilt labels: how many, and what becomes of them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from studies.spoil_labels import spoil, write_spoilt

CHESS = Path(__file__).parent.parent / 'data/chess'


@pytest.fixture(scope='module')
def clean() -> dict:
    return json.loads((CHESS / 'train.json').read_text())


@pytest.mark.parametrize('share', [0.2, 0.4])
def test_a_third_each_is_shifted_dropped_and_added(clean: dict, share: float) -> None:
    before = clean['annotations']
    spoilt = spoil(clean, share)
    chosen = round(share * len(before))
    boxes = {(a['image_id'], a['category_id'], tuple(a['bbox'])) for a in before}
    after = [(a['image_id'], a['category_id'], tuple(a['bbox'])) for a in spoilt['annotations']]
    assert len(boxes & set(after)) == pytest.approx(len(before) - 2 * chosen / 3, abs=2)
    assert len(after) == pytest.approx(len(before), abs=1)  # as many added as dropped
    assert [a['id'] for a in spoilt['annotations']] == list(range(1, len(after) + 1))
    assert {k: v for k, v in spoilt.items() if k != 'annotations'} == {
        k: v for k, v in clean.items() if k != 'annotations'
    }


def test_spoilt_boxes_lie_in_their_images(clean: dict) -> None:
    sizes = {image['id']: (image['width'], image['height']) for image in clean['images']}
    for annotation in spoil(clean, 1.0)['annotations']:
        x, y, width, height = annotation['bbox']
        limits = sizes[annotation['image_id']]
        assert x >= 0 and y >= 0 and width > 0 and height > 0
        assert np.all(np.array([x + width, y + height]) <= np.array(limits) + 1)
        assert annotation['area'] == pytest.approx(width * height, abs=0.01)


def test_no_share_and_the_same_seed_change_nothing(clean: dict) -> None:
    unspoilt = spoil(clean, 0)['annotations']
    assert [a['bbox'] for a in unspoilt] == [a['bbox'] for a in clean['annotations']]
    assert spoil(clean, 0.2, seed=3) == spoil(clean, 0.2, seed=3)
    assert spoil(clean, 0.2, seed=3) != spoil(clean, 0.2, seed=4)
    with pytest.raises(ValueError, match=r'share must be in \[0, 1\], got 1.5'):
        spoil(clean, 1.5)


def test_only_the_training_labels_are_spoilt(tmp_path: Path) -> None:
    write_spoilt(CHESS, 'train.json', 0.2, tmp_path / 'spoilt')
    for name, same in (('train.json', False), ('test.json', True)):
        texts = [(folder / name).read_text() for folder in (CHESS, tmp_path / 'spoilt')]
        assert (json.loads(texts[0]) == json.loads(texts[1])) is same
    assert len(list((tmp_path / 'spoilt/images').iterdir())) == 289
