"""The loss benchmark runs, and says what it left out."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from benchmarks import losses as bench

CPU = torch.device('cpu')


def test_shapes_are_those_of_retinanet() -> None:
    assert sum(bench.anchors_per_level()) * bench.BATCH_SIZE * bench.NUM_CLASSES == 32_256_000


def test_tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / 'losses.json'
    command = f'x --device cpu --logits 2e4 --rounds 2 --warm-up 0 --json {path}'
    monkeypatch.setattr('sys.argv', command.split())
    bench.main()
    result = json.loads(path.read_text(encoding='utf-8'))
    rows = result['classification, concatenated']['rows']
    names = [row['name'] for row in rows]
    assert names[0] == 'torch BCE, one-hot'
    assert {'MMDetection GHMC', 'ours, region, torch', 'ours, exact'} < set(names)
    assert all(row['seconds'] > 0 and row['peak_bytes'] > 0 for row in rows)


def test_a_loss_that_fails_is_left_out_with_a_note() -> None:
    def fail() -> None:
        raise NotImplementedError('no such operator')

    runs = {'first': lambda: None, 'second': fail}
    rows, notes = bench.compare(runs, CPU, rounds=1, warm_up=0)
    assert [row.name for row in rows] == ['first']
    assert notes == ['second: left out, it fails here: no such operator']


def test_ratios_are_those_of_a_round(monkeypatch: pytest.MonkeyPatch) -> None:
    """A round that the machine slows down leaves its ratio as it is."""
    clock = iter([1.0, 3.0, 30.0, 10.0, 2.0, 6.0])
    monkeypatch.setattr(bench, '_time', lambda run, device: next(clock))
    rows, _ = bench.compare({'a': lambda: None, 'b': lambda: None}, CPU, rounds=3, warm_up=0)
    assert (rows[0].ratio, rows[1].ratio) == (1.0, 3.0)
    assert (rows[1].ratio_low, rows[1].ratio_high) == (3.0, 3.0)


def test_scaling() -> None:
    tables = bench.scaling(CPU, 20_000, rounds=1, warm_up=0)
    assert len(tables['N']) == 4 and len(tables['M']) == 5
