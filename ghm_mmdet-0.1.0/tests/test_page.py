"""The page and the report of a comparison: all that was measured, in files that stand alone."""

from __future__ import annotations

import base64
import re
import shlex
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ghm_mmdet.compare.page import write_report
from ghm_mmdet.compare.verdict import verdict
from ghm_mmdet.stacks import mmdet_distribution
from ghm_mmdet.visualization.record import GradientDensityRecord
from ghm_mmdet.visualization.style import BLUE, GREEN, ORANGE

AP = {
    'original': [[20.1, 52.7], [19.2, 52.3], [18.3, 51.4]],
    'clipped': [[24.4, 63.2], [22.5, 61.0], [21.6, 62.4]],
    'ghm': [[32.7, 64.3], [31.8, 62.6], [30.9, 64.7]],
}
VOID = {'br', 'img', 'meta', 'hr'}
NASTY = '<b>"x" & |y|</b>'


def comparison(**changed: Any) -> dict[str, Any]:
    """Three arms, three seeds, two validations, two classes."""
    runs = []
    for arm, curves in AP.items():
        for seed, curve in enumerate(curves):
            points = [
                {
                    'iteration': 100 * i,
                    'AP': ap,
                    'AP50': round(ap + 20.04, 1),
                    'AP75': round(ap - 10.04, 1),
                    'classes': {'king': round(ap + 3.3, 1), 'queen': 10.0 + 7 * seed},
                }
                for i, ap in enumerate(curve, 1)
            ]
            run = dict(arm=arm, seed=seed, state='done', why=None, curve=points)
            runs.append({**run, 'seconds_per_iteration': 0.8125, 'folder': f'{arm}-seed{seed}'})
    arms = [
        dict(name='original', what='the config as it is', settings={}),
        dict(name='clipped', what='clipped at norm 2', settings={'clip_grad.max_norm': 2}),
        dict(name='ghm', what='harmonized', settings={'loss_cls.type': 'GHMC'}, config='ghm.py'),
    ]
    versions = dict(ghm_mmdet='0.1.0', torch='2.13.0', mmdet='3.5.1', python='3.11.7')
    results = dict(
        config='my_config.py', metric='AP', baselines=['original', 'clipped'], arms=arms,
        seeds=[0, 1, 2], runs=runs, versions=versions,
    )  # fmt: skip
    return {**results, **changed}


def with_state(state: str, why: str | None, *places: tuple[str, int], points: int = 0) -> dict:
    results = comparison()
    for run in results['runs']:
        if (run['arm'], run['seed']) in places:
            run.update(state=state, why=why, curve=run['curve'][:points])
    return results


class Page(HTMLParser):
    """The elements of a page, by name, with attributes, and the text in them."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.text, self.open = text, []
        self.elements: list[tuple[str, dict[str, str | None], list[str]]] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list) -> None:
        self.elements.append((tag, dict(attrs), []))
        if tag not in VOID:
            self.open.append(self.elements[-1])

    def handle_startendtag(self, tag: str, attrs: list) -> None:
        self.elements.append((tag, dict(attrs), []))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop()[0] == tag

    def handle_data(self, data: str) -> None:
        for _, _, texts in self.open:
            texts.append(data)

    def attributes(self, tag: str, **wanted: str) -> list[dict[str, str | None]]:
        return [a for name, a, _ in self.elements if name == tag and wanted.items() <= a.items()]

    def texts(self, tag: str) -> list[str]:
        return [' '.join(''.join(t).split()) for name, _, t in self.elements if name == tag]

    def lines(self, class_name: str) -> list[tuple[str, np.ndarray]]:
        """The style and the points (n, 2) of the polylines of a class."""
        return [
            (a['style'], np.array([p.split(',') for p in a['points'].split()], float))
            for a in self.attributes('polyline', **{'class': class_name})
        ]


def written(folder: Path, results: dict, *args: Any) -> tuple[Page, str]:
    write_report(folder, results, *args)
    assert {path.name for path in folder.iterdir()} >= {'page.html', 'report.md'}
    assert not list(folder.glob('.*'))
    page, report = ((folder / name).read_text('utf-8') for name in ('page.html', 'report.md'))
    for rows in re.findall(r'(?:^\|.*\n)+', report, re.MULTILINE):
        assert len({len(re.findall(r'(?<!\\)\|', row)) for row in rows.splitlines()}) == 1, rows
    return Page(page), report


def density(tmp_path: Path, *counts: list[int], bins: int = 60) -> Path:
    """A record whose rows have that many logits in its first and last bins, offsets in none."""
    record = GradientDensityRecord.empty(bins)
    for i, of_row in enumerate(counts):
        sums = np.zeros((2, 2, bins))
        sums[0, 0, : len(of_row) - 1], sums[0, 0, -1] = of_row[:-1], of_row[-1]
        record.append(100 * i, sums, 0.02)
    record.save(tmp_path / 'record.npz')
    return tmp_path / 'record.npz'


def test_all_that_was_measured_is_there(tmp_path: Path) -> None:
    results = comparison()
    page, report = written(tmp_path, results)
    found = verdict(results)
    assert found.sentence.startswith('Set clip_grad.max_norm=2: ')
    text = ' '.join(''.join(page.elements[0][2]).split())
    for said in (found.sentence, *found.details):
        assert said in text and said in report
    cells = {'td': page.texts('td'), 'report': re.findall(r'[^|\n]+', report)}
    numbers = [f'{ap:.1f}' for curves in AP.values() for curve in curves for ap in curve]
    for row in found.table:
        numbers += [str(difference) for difference in row.differences.values()]
        ends = [curve[-1] for curve in AP[row.arm]]
        numbers += [f'{np.mean(ends) + shift:.1f}' for shift in (0, 20, -10)]
    for difference in found.classes.values():
        numbers.append(f'{difference.mean:+.1f}')
    for where in cells.values():
        assert not set(numbers) - {cell.strip(' *') for cell in where}
    for part in ('0.1.0', '2.13.0', '3.5.1', '3.11.7', 'my_config.py', '0.812', 'GHMC'):
        assert part in text and part in report


def test_rows_of_the_table(tmp_path: Path) -> None:
    """In the order of the arms; each number in its column."""
    results = with_state('failed', 'lost', ('clipped', 1))
    page, report = written(tmp_path, results)
    first, second, third = (
        str(d) for row in verdict(results).table for d in row.differences.values()
    )
    rows = [
        '| arm | mean | to original | to clipped | verdict | AP50 | AP75 '
        '| seed 0 | seed 1 | seed 2 |',
        '|---|---|---|---|---|---|---|---|---|---|',
        '| original | 52.1 | – | – | baseline | 72.1 | 42.1 | 52.7 | 52.3 | 51.4 |',
        f'| clipped | 62.8 | {first} | – | no verdict | 82.8 | 52.8 | 63.2 | – | 62.4 |',
        f'| ghm | 63.9 | {second} | {third} | undecided | 83.9 | 53.9 | 64.3 | 62.6 | 64.7 |',
    ]
    assert '\n'.join(rows) in report
    cells = [row.strip('| ').split(' | ')[1:] for row in rows[2:]]
    assert page.texts('td')[:27] == [cell for row in cells for cell in row]
    assert ' '.join(page.texts('th')[:10]) == rows[0].replace(' |', '').strip('| ')


def test_page_needs_no_other_file(tmp_path: Path) -> None:
    pictures = {'ground truth': [b'0', b'1'], 'ghm': [b'2', b'3']}
    page, _ = written(tmp_path, comparison(), pictures, {'ghm': density(tmp_path, [5, 1])})
    loaded = [a[key] for _, a, _ in page.elements for key in ('src', 'href', 'srcset') if key in a]
    assert loaded and all(link.startswith(('data:image/png;base64,', '#')) for link in loaded)
    assert not {'script', 'link', 'iframe', 'object'} & {tag for tag, *_ in page.elements}
    assert not re.search(r'https?:|url\(|@import', page.text)


def test_page_fits_a_phone_and_a_dark_screen(tmp_path: Path) -> None:
    page, _ = written(tmp_path, comparison())
    [viewport] = page.attributes('meta', name='viewport')
    assert viewport['content'] == 'width=device-width, initial-scale=1'
    assert page.attributes('meta', name='color-scheme') == [
        dict(name='color-scheme', content='light dark')
    ]
    assert '@media (prefers-color-scheme: dark)' in page.text
    # Tables scroll in a frame of their own, which the keyboard reaches.
    tables = len(page.attributes('table'))
    scrolling = page.text.count('<div class="scroll" tabindex="0" role="region"')
    assert tables == scrolling == 4
    assert all(a['aria-label'] for a in page.attributes('svg', role='img'))


def test_names_are_text(tmp_path: Path) -> None:
    """Of classes, arms, configs and errors."""
    results = with_state('failed', NASTY, ('original', 2))
    results.update(config=NASTY)
    results['arms'][2].update(name=NASTY, what=NASTY, settings={NASTY: NASTY})
    for run in results['runs']:
        run['arm'] = NASTY if run['arm'] == 'ghm' else run['arm']
        for point in run['curve']:
            point['classes'] = {NASTY: point['AP'], f'{NASTY}2': point['AP']}
    page, report = written(
        tmp_path, results, {NASTY: [b'']}, {NASTY: density(tmp_path, [5, 1]), 'original': tmp_path}
    )
    assert set(page.texts('b')) <= {NASTY}
    # Markdown reads nothing in code.
    assert '<b>"x"' not in page.text and '<b>"x"' not in re.sub('`[^`]*`', '', report)
    assert any(NASTY in text for text in page.texts('th'))
    assert any(a['alt'] == f'Detections of {NASTY} on test image 1' for a in page.attributes('img'))


def test_crops_lie_beside_one_another(tmp_path: Path) -> None:
    """By image; an arm that has none is left out."""
    pictures = {'ground truth': [b'g0', b'g1'], 'original': [b'o0', b'o1'], 'ghm': [b'h0']}
    page, _ = written(tmp_path, comparison(), pictures)
    shown = [(base64.b64decode(a['src'].split(',')[1]), a['alt']) for a in page.attributes('img')]
    assert shown == [
        (b'g0', 'Ground truth on test image 1'),
        (b'o0', 'Detections of original on test image 1'),
        (b'h0', 'Detections of ghm on test image 1'),
        (b'g1', 'Ground truth on test image 2'),
        (b'o1', 'Detections of original on test image 2'),
    ]
    assert page.texts('h3')[:2] == ['Test image 1', 'Test image 2']


def test_curves_of_all_seeds_and_their_means(tmp_path: Path) -> None:
    """All on one scale, by the labels of the axes: 0 to 200 iterations, 10 to 70 AP."""
    page, _ = written(tmp_path, with_state('running', None, ('ghm', 2), points=1))

    def value(points: np.ndarray) -> np.ndarray:
        (left, right), (bottom, top) = (64, 466), (252, 14)
        x = (points[:, 0] - left) / (right - left) * 200
        return np.stack([x, 10 + 60 * (points[:, 1] - bottom) / (top - bottom)], 1)

    ticks = [text for text in page.texts('text') if re.fullmatch(r'\d+', text)]
    assert ticks == ['10', '20', '30', '40', '50', '60', '70', '0', '40', '80', '120', '160', '200']
    seeds = [(style, value(points)) for style, points in page.lines('seed')]
    expected = [curve for curves in AP.values() for curve in curves]
    assert len(seeds) == 9
    for (_, points), curve in zip(seeds, expected):
        n = 1 if curve is AP['ghm'][2] else 2
        np.testing.assert_allclose(points, list(zip((100, 200), curve))[:n], atol=0.1)
    means = page.lines('mean')
    for (style, points), curves, colour in zip(means, AP.values(), (BLUE, GREEN, ORANGE)):
        assert colour in style
        done = curves[:2] if curves is AP['ghm'] else curves
        expected = list(zip((100, 200), np.mean(done, 0)))
        np.testing.assert_allclose(value(points), expected, atol=0.1)
    assert len({style for style, _ in means}) == 3


def test_densities_of_the_last_row(tmp_path: Path) -> None:
    """In 30 regions of a record of 60 bins: 99 of 100 in the first, one in the last."""
    path = density(tmp_path, [7, 7, 7], [50, 49, 0, 1])
    page, _ = written(tmp_path, comparison(), None, {'ghm': path})
    assert page.texts('figcaption')[1:] == ['Gradient norms of the logits']
    style, points = page.lines('mean')[-1]
    assert ORANGE in style
    # From 1e-2 at the bottom to 1 at the top.
    y = [252 - 238 * (np.log10(share) + 2) / 2 for share in (0.99, 0.01)]
    x = [64 + 402 * (region + 0.5) / 30 for region in (0, 29)]
    np.testing.assert_allclose(points, np.transpose([x, y]), atol=0.06)
    labels = {'gradient norm g', 'fraction of the logits', '10-2', '10-1', '100'}
    assert labels <= set(page.texts('text'))


def test_densities_that_are_not_there(tmp_path: Path) -> None:
    empty = density(tmp_path)
    page, _ = written(tmp_path, comparison(), None, {'ghm': empty, 'original': tmp_path / 'no.npz'})
    assert page.texts('figcaption') == [
        'AP by iteration: each seed thin, the mean of the finished trainings bold'
    ]
    [note] = [text for text in page.texts('p') if text.startswith('The record of original')]
    assert 'can not be read' in note and 'no.npz' in note


def test_regions_of_a_record_of_other_bins(tmp_path: Path) -> None:
    path = density(tmp_path, [1, 1, 1, 1], bins=7)
    page, _ = written(tmp_path, comparison(), None, {'ghm': path})
    assert len(page.lines('mean')[-1][1]) == 4


def test_what_is_missing_or_failed_is_named(tmp_path: Path) -> None:
    results = with_state('failed', 'the loss is NaN since iteration 40', ('ghm', 1), ('ghm', 2))
    for run in results['runs']:
        if run['seed'] == 2 and run['arm'] != 'ghm':
            run.update(state='missing', curve=[], seconds_per_iteration=None)
    page, report = written(tmp_path, results)
    lines = [
        'original, seed 2: missing',
        'clipped, seed 2: missing',
        'ghm, seed 1: failed, the loss is NaN since iteration 40',
        'ghm, seed 2: failed, the loss is NaN since iteration 40',
    ]
    assert page.texts('li')[-4:] == [
        f'{line} ({line.split(",")[0]}-seed{line[line.index("seed") + 5]})' for line in lines
    ]
    assert report.rstrip().endswith('\n'.join(f'- {line}' for line in lines))
    assert '4 of 9 trainings have no result' in ' '.join(page.texts('p'))
    assert [a['href'] for a in page.attributes('a')] == ['#missing']
    assert page.attributes('h2', id='missing')
    done = {**dict(zip(('original', 'clipped', 'ghm'), ('2 of 3', '2 of 3', '1 of 3')))}
    for arm, count in done.items():
        assert f'- {arm}, ' in report and f': {count} trainings, 0.812 s an iteration' in report
    complete, complete_report = written(tmp_path, comparison())
    assert not complete.attributes('a')
    assert 'missing or failed' not in ''.join(complete.texts('body')) + complete_report


@pytest.mark.parametrize(
    ('shift', 'kept', 'command'),
    [
        (0, 'ghm', 'mim train {mmdet} "{folder}/ghm.py"'),
        (-30, 'clipped', 'mim train {mmdet} my_config.py --cfg-options clip_grad.max_norm=2'),
    ],
)
def test_config_to_keep(shift: float, kept: str, command: str, tmp_path: Path) -> None:
    """How it is trained, from a folder whose name has a blank."""
    results = comparison()
    for run in results['runs']:
        for point in run['curve'] if run['arm'] == 'ghm' else ():
            point['AP'] += shift + 0.1 * run['seed']
    folder = tmp_path / 'my work'
    folder.mkdir()
    page, report = written(folder, results)
    assert kept in page.texts('b')
    words = shlex.split(command.format(mmdet=mmdet_distribution(), folder=folder))
    assert shlex.split(page.texts('pre')[0]) == words
    [line] = [line for line in report.splitlines() if line.startswith('    mim train')]
    assert shlex.split(line) == words


def test_nothing_to_keep_without_a_verdict(tmp_path: Path) -> None:
    page, report = written(tmp_path, with_state('running', None, ('ghm', 0)))
    assert 'None yet: there is no verdict.' in page.texts('p')
    assert 'None yet: there is no verdict.' in report and 'mim train' not in report


def test_classes_that_stand_out_are_marked(tmp_path: Path) -> None:
    results = comparison()
    for run in results['runs']:
        run['curve'][-1]['classes']['king'] += 20 * (run['arm'] == 'ghm')
    page, report = written(tmp_path, results)
    found = verdict(results).classes
    assert [d.word for d in found.values()] == ['ahead', 'undecided']
    assert f'| king | **{found["king"]}** |\n| queen | +0.0 |\n' in report
    assert len(page.attributes('tr', **{'class': 'out'})) == 1
    assert str(found['king']) in page.texts('td')
    waiting, report = written(tmp_path, with_state('running', None, ('original', 0)))
    assert not waiting.attributes('tr', **{'class': 'out'}) and '**+' not in report.split('## ')[3]


def of_many_arms() -> dict[str, Any]:
    results = comparison()
    for i in range(6):
        results['arms'].append({**results['arms'][2], 'name': f'mine{i}'})
        results['runs'] += [{**run, 'arm': f'mine{i}'} for run in results['runs'][6:9]]
    return results


def of_many_classes() -> dict[str, Any]:
    results = comparison()
    for run in results['runs']:
        for point in run['curve']:
            point['classes'] = {f'class {i}': (i * 7 + run['seed']) % 50 for i in range(80)}
    return results


def without_metrics() -> dict[str, Any]:
    results = comparison()
    for run in results['runs']:
        run['curve'] = [{'iteration': 100, 'AP': None, 'AP50': None, 'AP75': None, 'classes': {}}]
    return results


EVERY = [(arm, seed) for arm in AP for seed in range(3)]
STATES = {
    'one seed': comparison(seeds=[0], runs=[r for r in comparison()['runs'] if r['seed'] == 0]),
    'one arm': comparison(arms=comparison()['arms'][:1], runs=comparison()['runs'][:3]),
    'no baseline': comparison(arms=comparison()['arms'][2:], runs=comparison()['runs'][6:]),
    'nothing yet': with_state('missing', None, *EVERY),
    'all failed': with_state('failed', 'CUDA out of memory', *EVERY),
    'empty curves': with_state('done', None, *EVERY),
    'one validation': with_state('done', None, *EVERY, points=1),
    'null': without_metrics(),
    'nine arms': of_many_arms(),
    '80 classes': of_many_classes(),
}


@pytest.mark.parametrize('name', STATES)
def test_any_state_has_its_page(name: str, tmp_path: Path) -> None:
    results = STATES[name]
    page, report = written(tmp_path, results)
    sentence = verdict(results).sentence
    assert sentence in page.texts('strong') and f'**{sentence}**' in report
    assert not re.search(r'\b(nan|None|inf)\b(?! yet)', page.text + report)
    numbers = page.lines('seed') + page.lines('mean')
    assert all(np.isfinite(points).all() for _, points in numbers)
    for svg in page.attributes('svg', role='img'):
        assert svg['viewbox'] == '0 0 480 300'
    inside = np.concatenate(
        [points for _, points in numbers if points.size] or [np.full((1, 2), 100)]
    )
    assert (inside >= [64, 14]).all() and (inside <= [466, 252]).all()


def test_page_is_replaced_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a full disk the last one stays, and nothing of the new one."""
    written(tmp_path, comparison())
    before = (tmp_path / 'page.html').read_bytes()

    def full(path: Path, *_: Any, **__: Any) -> None:
        path.touch()
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr(Path, 'write_text', full)
    with pytest.raises(OSError, match='No space left'):
        write_report(tmp_path, with_state('missing', None, *EVERY))
    assert (tmp_path / 'page.html').read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ['page.html', 'report.md']
