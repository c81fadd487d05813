"""What the density does: cross entropy, the parts, other box losses, and wrong labels.

The detector, sets and trainings are those of `studies.real_images`.

Examples:
    python -m studies.controls run --data-root data --seeds 1 --jobs 2 --only '*-ce-*-1x'
    python -m studies.controls report
"""

from __future__ import annotations

from functools import partial
from itertools import product
from pathlib import Path

from .options import Losses
from .real_images import (
    BY_ADAMW,
    LEARNT,
    LOSSES,
    NORMALIZED,
    PRESET_NORMALIZED,
    TO_THE_END,
    Regime,
    Variant,
    experiment,
)  # fmt: skip
from .study import IN_THE_CLONE, StudySettings, perform, study_parser

RESULTS = Path('studies/results/controls.jsonl')
#: The sets with several classes.
SEVERAL = ('chess', 'bccd', 'cards', 'fruit', 'deeppcb', 'aquarium')
WEIGHTS = (0.25, 0.06, 1, 0.03, 0.12, 0.5)
CLS, REG = 'model.bbox_head.loss_cls', 'model.bbox_head.loss_bbox'


def _config(key: str, **values: object) -> tuple[str, ...]:
    return (f'{key}._delete_=True', *(f'{key}.{name}={value}' for name, value in values.items()))


def cross_entropy(weight: float) -> tuple[str, ...]:
    return _config(CLS, type='CrossEntropyLoss', use_sigmoid=True, loss_weight=weight)


DECODED = ('model.bbox_head.reg_decoded_bbox=True',)
GIOU = (*DECODED, *_config(REG, type='GIoULoss', loss_weight=2.0))
L1 = _config(REG, type='L1Loss', loss_weight=1.0)
QUALITY = dict(type='QualityFocalLoss', use_sigmoid=True, beta=2.0, loss_weight=1.0)
TEMPERED = dict(preset='tempered')
GHM_C, GHM_R = TEMPERED | dict(reg=False), TEMPERED | dict(cls=False)
ARMS: dict[str, Losses] = {name: LOSSES[name] for name in (NORMALIZED, PRESET_NORMALIZED)}
for _w, _clip in product(WEIGHTS, (2, 10, 35)):
    _what, _options = f'cross entropy of weight {_w}', cross_entropy(_w)
    ARMS[f'ce{_w}-clip{_clip}'] = Losses(f'{_what} + smooth L1', None, _options, _clip)
    ARMS[f'ce{_w}-ghmr-clip{_clip}'] = Losses(f'{_what} + GHM-R', GHM_R, _options, _clip)
for _clip in (2, 10):
    ARMS |= {
        f'ghmc-clip{_clip}': Losses('GHM-C + smooth L1', GHM_C, (), _clip),
        f'ghmr-clip{_clip}': Losses('focal loss + GHM-R', GHM_R, (), _clip),
        f'l1-clip{_clip}': Losses('focal loss + L1', None, L1, _clip),
        f'giou-clip{_clip}': Losses('focal loss + GIoU', None, GIOU, _clip),
        f'ghmc-l1-clip{_clip}': Losses('GHM-C + L1', GHM_C, L1, _clip),
        f'ghmc-giou-clip{_clip}': Losses('GHM-C + GIoU', GHM_C, GIOU, _clip),
    }
for _name in ('capped', 'quarter'):
    _options = (f'{CLS}.formula=studies.formulas.{_name}',)
    ARMS[_name] = Losses(f'the preset, formula {_name}', TEMPERED, _options, 10)
ARMS['qfl-clip2'] = Losses('quality focal loss + smooth L1', None, _config(CLS, **QUALITY), 2)
CE = tuple(arm for arm in ARMS if arm.startswith('ce'))
OTHERS = tuple(arm for arm in ARMS if arm not in CE)
AGAINST_NOISE = (NORMALIZED, PRESET_NORMALIZED, 'ce0.25-clip2', 'ce0.25-ghmr-clip10', 'capped')
NOISES = ('classes', 'missing', 'bogus', 'corners')
VARIANTS = (
    *(Variant(name, arm, BY_ADAMW[0]) for arm, name in product((*CE, *OTHERS[2:]), LEARNT)),
    *(
        Variant(name, arm, Regime(length), noise)
        for length, noise, name, arm in product(('1x', '3x'), NOISES, SEVERAL, AGAINST_NOISE)
    ),
    *(Variant(name, arm, Regime('12x')) for arm, name in product(ARMS, TO_THE_END)),
)
training = partial(experiment, losses=ARMS)


def table(settings: StudySettings, seeds: int) -> str:
    """A line for each run."""
    runs = (training(variant, settings, seed) for variant in VARIANTS for seed in range(seeds))
    found = ((run.run, run.result()) for run in runs)
    return '\n'.join(f'{run} {100 * m["bbox_mAP"]:.1f}' for run, m in found if m)


def main() -> None:
    parser = study_parser(__doc__, 'work_dirs/controls', 'REAL_ROOT')
    parser.set_defaults(results=RESULTS, variables=IN_THE_CLONE)
    perform(parser.parse_args(), VARIANTS, training, table)


if __name__ == '__main__':
    main()
