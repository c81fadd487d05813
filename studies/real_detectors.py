"""Ten detectors with their own losses and with GHM, on photographs, from ImageNet weights.

Examples:
    python -m studies.real_detectors run --data-root data --seeds 2 --jobs 2
    python -m studies.real_detectors report --seeds 2
--data-root holds a folder of each set, as for `studies.real_images`.
"""

from __future__ import annotations

import statistics
from itertools import product
from pathlib import Path

from ghm_mmdet.experiments.markdown import markdown_table
from ghm_mmdet.presets import PRESETS
from ghm_mmdet.reproduce.configs import config_path
from ghm_mmdet.swap import losses_found

from .means import by_seed, differences, mean_and_spread, mean_with_interval
from .options import CLIP, harmonized_options, in_set, iterations, of_set
from .real_images import ITERATIONS
from .study import IN_THE_CLONE, StudySettings, Training, perform, study_parser

RESULTS = Path('studies/results/real_detectors.jsonl')
#: The metrics by seed.
Runs = dict[int, dict[str, float]]
DETECTORS = {
    'faster-rcnn': 'Faster R-CNN',
    'cascade-rcnn': 'Cascade R-CNN',
    'atss': 'ATSS',
    'fcos': 'FCOS',
    'yolox': 'YOLOX',
    'yolov3': 'YOLOv3',
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
SETS = ('chess', 'bccd', 'cards', 'fruit')
ORIGINAL, PRESET = LOSSES = ('original', 'tempered')
#: The same, clipped in most iterations.
NORMALIZED = tuple(f'{losses}-clipped-2' for losses in LOSSES)
#: By the norm at which the gradient is clipped: the config's first.
BY_NORM = {35: LOSSES, 2: NORMALIZED}
#: The preset, with GHM-C in the place of what the preset keeps as well: a softmax, the objectness.
SOFTMAX, OBJECTNESS = 'softmax', 'objectness'
OBJECTNESS_OF = {'yolox': 'loss_obj', 'yolov3': 'loss_conf'}
OF_KEPT = (
    *product(SETS[:1], ('faster-rcnn', 'ssd'), (SOFTMAX,)),
    *product(SETS, OBJECTNESS_OF, (OBJECTNESS,)),
)
#: A set, a detector and its losses.
VARIANTS = (*product(SETS, DETECTORS, (*LOSSES, *NORMALIZED)), *OF_KEPT)


def config_of(detector: str) -> Path:
    return config_path(f'studies/configs/{detector}_lite0_chess.py')


def experiment(variant: tuple[str, str, str], settings: StudySettings, seed: int) -> Training:
    name, detector, losses = variant
    config = config_of(detector)
    settings = in_set(settings, name)

    def options() -> tuple[str, ...]:
        found = () if name == SETS[0] else of_set(settings.data_root, heads_of(detector))
        if detector in LONG:
            found += iterations(length_of(detector))
        if losses in NORMALIZED:
            found += (CLIP(2),)
        if losses not in (ORIGINAL, NORMALIZED[0]):
            found += harmonized_options(config, preset=PRESET)
        if losses == SOFTMAX:
            found += ghm_c_for(detector, 'loss_cls', use_sigmoid=False)
        if losses == OBJECTNESS:
            found += ghm_c_for(detector, OBJECTNESS_OF[detector], reduction='positives')
        return found

    return Training('-'.join(variant), config, settings, seed=seed, further=options)


def heads_of(detector: str) -> tuple[str, ...]:
    return HEADS.get(detector, ('model.bbox_head',))


def ghm_c_for(detector: str, loss: str, **arguments: object) -> tuple[str, ...]:
    settings = {'_delete_': True, **PRESETS[PRESET].ghm_c, **arguments}
    pairs = product(heads_of(detector), settings.items())
    return tuple(f'{head}.{loss}.{key}={value}' for head, (key, value) in pairs)


def length_of(detector: str) -> int:
    return ITERATIONS['3x' if detector in LONG else '1x']


def table(settings: StudySettings, seeds: int) -> str:
    """Percent, mean and standard deviation over the seeds; the difference is paired by seed."""
    rows = []
    for norm, name, detector in product(BY_NORM, SETS, DETECTORS):
        original, preset = _pair(name, detector, (norm,), settings, seeds)
        if original and preset:
            named = name, DETECTORS[detector], length_of(detector), norm
            rows.append([*named, *_cells(original, preset), _replaced(detector)])
    heads = ['seeds', 'AP', 'AP75', 'AP, preset', 'AP75, preset', 'difference of AP', 'replaced']
    heads = ['set', 'detector', 'iterations', 'clipped at', *heads]
    of_norms = (*((norm,) for norm in BY_NORM), tuple(BY_NORM))
    means = (over_detectors(settings, seeds, norms) for norms in of_norms)
    return '\n\n'.join([markdown_table(heads, rows), *means, table_of_kept(settings, seeds)])


def over_detectors(settings: StudySettings, seeds: int, norms: tuple[int, ...]) -> str:
    """The mean difference over the sets of each detector, and over the detectors; these are the
    unit of the interval. The last row is of the detectors that were trained on every set.
    Of several norms, each loss has the one of its highest AP.
    """
    rows, means, on_every_set = [], [], []
    for detector in DETECTORS:
        of_sets = [_differences(name, detector, norms, settings, seeds) for name in SETS]
        cells = [statistics.mean(of_set) if of_set else None for of_set in of_sets]
        if there := [cell for cell in cells if cell is not None]:
            means.append(statistics.mean(there))
            shown = (None if cell is None else f'{cell:+.1f}' for cell in (*cells, means[-1]))
            rows.append([DETECTORS[detector], *shown])
            if len(there) == len(SETS):
                on_every_set.append(means[-1])
    for what, over in (('detectors', means), ('on every set', on_every_set)):
        if over:
            rows.append([f'{len(over)} {what}', *[None] * len(SETS), mean_with_interval(over)])
    what = f'AP, preset minus its own losses, clipped at norm {" or ".join(map(str, norms))}'
    return markdown_table([what, *SETS, 'mean'], rows)


def _differences(
    name: str, detector: str, norms: tuple[int, ...], settings: StudySettings, seeds: int
) -> list[float]:
    original, preset = _pair(name, detector, norms, settings, seeds)
    return differences(preset, original, 'AP')


def _pair(
    name: str, detector: str, norms: tuple[int, ...], settings: StudySettings, seeds: int
) -> tuple[Runs, Runs]:
    """The runs with its own losses and those with the preset."""
    of_norms = [[_runs((name, detector, x), settings, seeds) for x in BY_NORM[n]] for n in norms]
    original, preset = (_best_of(*found) for found in zip(*of_norms, strict=True))
    return original, preset


def _best_of(*found: Runs) -> Runs:
    """Of each seed that all have, the run of the highest AP."""
    seeds = set.intersection(*map(set, found))
    return {s: max((runs[s] for runs in found), key=lambda run: run['AP']) for s in sorted(seeds)}


def table_of_kept(settings: StudySettings, seeds: int) -> str:
    """Where the preset keeps a classification loss: what GHM-C does in its place."""
    rows = []
    for variant in OF_KEPT:
        if runs := _runs(variant, settings, seeds):
            aps = (mean_and_spread([run[c] for run in runs.values()]) for c in ('AP', 'AP75'))
            rows.append([*variant, len(runs), *aps])
    return markdown_table(['set', 'detector', 'GHM-C for its', 'seeds', 'AP', 'AP75'], rows)


def _runs(variant: tuple[str, str, str], settings: StudySettings, seeds: int) -> Runs:
    """Of each seed that was run, the metrics in percent."""
    return by_seed(experiment(variant, settings, seed) for seed in range(seeds))


def _cells(original: Runs, preset: Runs) -> list[object]:
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
