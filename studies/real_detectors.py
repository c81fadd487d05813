"""Seven detectors with their own losses and with GHM, on photographs, from ImageNet weights.

Examples:
    python -m studies.real_detectors run --seeds 2 --jobs 2
    python -m studies.real_detectors report --seeds 2
"""

from __future__ import annotations

from itertools import product
from pathlib import Path

from ghm_mmdet.reproduce.configs import config_path
from ghm_mmdet.reproduce.markdown import markdown_table
from ghm_mmdet.swap import losses_found

from .command_line import IN_THE_CLONE, perform, study_parser
from .experiment import Experiment, Settings
from .real_images import (
    differences,
    harmonized_options,
    mean_and_spread,
    mean_with_interval,
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
}
ORIGINAL, PRESET = LOSSES = ('original', 'tempered')
#: A detector and its losses.
VARIANTS = tuple(product(DETECTORS, LOSSES))


def config_of(detector: str) -> Path:
    return config_path(f'studies/configs/{detector}_lite0_chess.py')


def experiment(variant: tuple[str, str], settings: Settings, seed: int) -> Experiment:
    detector, losses = variant
    config = config_of(detector)
    options = () if losses == ORIGINAL else harmonized_options(config, preset=losses)
    return Experiment(f'{detector}-{losses}', config, settings, options, seed)


def table(settings: Settings, seeds: int) -> str:
    """Percent, mean and standard deviation over the seeds; the difference is paired by seed."""
    rows = []
    for detector, what in DETECTORS.items():
        found: dict[str, dict[int, dict[str, float]]] = {}
        for losses, seed in product(LOSSES, range(seeds)):
            metrics = experiment((detector, losses), settings, seed).result()
            if metrics is not None:
                found.setdefault(losses, {})[seed] = percent(metrics)
        if found.keys() >= set(LOSSES):
            rows.append([what, *_cells(found[ORIGINAL], found[PRESET]), _replaced(detector)])
    heads = ['seeds', 'AP', 'AP75', 'AP, preset', 'AP75, preset', 'difference of AP', 'replaced']
    return markdown_table(['detector', *heads], rows)


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
