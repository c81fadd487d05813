"""Nine detectors with their own losses and with GHM, on photographs, from ImageNet weights.

Examples:
    python -m studies.real_detectors run --data-root data --seeds 2 --jobs 2
    python -m studies.real_detectors report --seeds 2
--data-root holds a folder of each set, as for `studies.real_images`.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from pathlib import Path

from ghm_mmdet.reproduce.configs import config_path
from ghm_mmdet.reproduce.markdown import markdown_table
from ghm_mmdet.swap import losses_found

from .command_line import IN_THE_CLONE, iterations, perform, study_parser
from .experiment import Experiment, Settings
from .real_images import (
    ITERATIONS,
    differences,
    harmonized_options,
    mean_and_spread,
    mean_with_interval,
    of_set,
    percent,
)

RESULTS = Path('studies/results/real_detectors.jsonl')
DETECTORS = {
    'faster-rcnn': 'Faster R-CNN',
    'cascade-rcnn': 'Cascade R-CNN',
    'atss': 'ATSS',
    'fcos': 'FCOS',
    'yolox': 'YOLOX',
    'ssd': 'SSD',
    'gfl': 'GFL',
    'vfnet': 'VarifocalNet',
    'rtmdet': 'RTMDet',
}
#: Those with other heads than `bbox_head`.
HEADS = {
    'faster-rcnn': ('model.roi_head.bbox_head',),
    'cascade-rcnn': tuple(f'model.roi_head.bbox_head.{stage}' for stage in range(3)),
}
#: Two stages learn little in 200 iterations: they have three times as many.
LONG = ('faster-rcnn', 'cascade-rcnn')
#: The configs are of the first.
SETS = ('chess', 'bccd')
ORIGINAL, PRESET = LOSSES = ('original', 'tempered')
#: A set, a detector and its losses.
VARIANTS = tuple(product(SETS, DETECTORS, LOSSES))


def config_of(detector: str) -> Path:
    return config_path(f'studies/configs/{detector}_lite0_chess.py')


def experiment(variant: tuple[str, str, str], settings: Settings, seed: int) -> Experiment:
    name, detector, losses = variant
    config = config_of(detector)
    data = Path(settings.data_root or 'data', name)
    settings = replace(settings, data_root=str(data))
    options = () if name == SETS[0] else of_set(data, HEADS.get(detector, ('model.bbox_head',)))
    if detector in LONG:
        options += iterations(length_of(detector))
    if losses == PRESET:
        options += harmonized_options(config, preset=losses)
    return Experiment('-'.join(variant), config, settings, options, seed)


def length_of(detector: str) -> int:
    return ITERATIONS['3x' if detector in LONG else '1x']


def table(settings: Settings, seeds: int) -> str:
    """Percent, mean and standard deviation over the seeds; the difference is paired by seed."""
    rows = []
    for name, detector in product(SETS, DETECTORS):
        found: dict[str, dict[int, dict[str, float]]] = {}
        for losses, seed in product(LOSSES, range(seeds)):
            metrics = experiment((name, detector, losses), settings, seed).result()
            if metrics is not None:
                found.setdefault(losses, {})[seed] = percent(metrics)
        if found.keys() >= set(LOSSES):
            cells = _cells(found[ORIGINAL], found[PRESET])
            named = name, DETECTORS[detector], length_of(detector)
            rows.append([*named, *cells, _replaced(detector)])
    heads = ['seeds', 'AP', 'AP75', 'AP, preset', 'AP75, preset', 'difference of AP', 'replaced']
    return markdown_table(['set', 'detector', 'iterations', *heads], rows)


def _cells(original: dict, preset: dict) -> list[object]:
    spread = (
        mean_and_spread([run[column] for run in runs.values()])
        for runs in (original, preset)
        for column in ('AP', 'AP75')
    )
    paired = differences(preset, original, 'AP')
    return [len(paired), *spread, mean_with_interval(paired)]


def _replaced(detector: str) -> str:
    return '<br>'.join(
        f'`{found.where.removeprefix("model.")}`: {found.loss} → {found.ghm["type"]}'
        for found in losses_found(config_of(detector), preset=PRESET).replaced
    )


if __name__ == '__main__':
    parser = study_parser(__doc__, 'work_dirs/real_detectors', 'REAL_ROOT')
    parser.set_defaults(results=RESULTS, variables=IN_THE_CLONE)
    perform(parser.parse_args(), VARIANTS, experiment, table)
