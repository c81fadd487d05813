"""What is known of heads, losses and configs: the tables of `rules.yml`, each with its type.

A table that is missing, unknown or of another type, a misspelt argument of a `Call`, a name that is
no head's or no loss's of the tables: the import fails, and names the place in the file.
"""

# The types are looked at when this is imported: Python 3.8 has `Dict` alone.

import sys
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Dict, List, Literal, Union, get_type_hints

from ..data_files import read_yaml, typed

_READ = {k: v for k, v in read_yaml(Path(__file__).with_name('rules.yml')).items() if k[0] != '_'}


@dataclass(frozen=True)
class Call:
    """How a head calls a loss that GHM can replace.

    Attributes:
        ghm: 'GHMC' for logits with labels or targets in [0, 1], 'GHMR' for encoded offsets.
        reduction: Of the GHM loss. 'mean' where the head takes the loss as it is; 'positives',
            'rows' or 'sum' where it adds up the losses of the examples.
        averaged_levels: Whether it calls the loss for each FPN level, and its own average runs
            over all of them. GHM's mean is that of the level: its weight is divided by the
            number of levels.
        positives: The share of positives, by MMDetection's samplers, of the samples that the
            head averages a regression loss over. GHM-R averages over the positives alone: its
            weight is multiplied by the share.
        target_stds: What the head's coder divides the offsets by, on average, where the config
            leaves it to the head's default.
        summed: Whether the head passes no `avg_factor`: the loss must have `reduction='sum'`.
        skipped: Where the head does not call the loss. A loss with `sync=True` would wait there
            for the process that has nothing to call it with.
        note: What else to know of the loss that takes its place.
        kept: Why a preset that keeps a softmax keeps this loss, too.
    """

    ghm: Literal['GHMC', 'GHMR']
    reduction: Literal['mean', 'positives', 'rows', 'sum'] = 'mean'
    averaged_levels: bool = False
    positives: float = 1.0
    target_stds: float = 1.0
    summed: bool = False
    skipped: str = ''
    note: str = ''
    kept: str = ''


#: What a head calls: the key of each loss to how, or to why it is kept.
Calls = Dict[str, Union[Call, str]]
#: In the file a text of them.
Names = List[str]
#: What becomes of an argument that names a place or a run.
Fate = Literal['renamed', 'renamed if absolute', 'none', 'kept']

# Each head to its calls; other heads to the head that takes their place, or to why their losses
# stay.
HEADS: Dict[str, Calls] = {k: calls for keys, calls in _READ['heads'].items() for k in keys.split()}
HEADS_WITH_LOSSES: Dict[str, str] = _READ['heads_with_losses']
HEADS_WITHOUT_LOSSES: Dict[str, str] = _READ['heads_without_losses']
BATCH_DENSITY_HEADS: Dict[str, str] = _READ['batch_density_heads']
# Groups of heads.
SOFTMAX_HEADS: Names = _READ['softmax_heads']
RPN_HEADS: Names = _READ['rpn_heads']
HEADS_OF_WORDS: Names = _READ['heads_of_words']
QUALITY_HEADS: Names = _READ['quality_heads']
# Why a loss is kept, by its key, its type, the detector, and the RoI head.
KEYS: Dict[str, str] = _READ['keys']
LOSSES: Dict[str, str] = _READ['losses']
DETECTORS: Dict[str, str] = _READ['detectors']
ROI_HEADS: Dict[str, Dict[str, str]] = _READ['roi_heads']
RANKING_SAMPLERS: Names = _READ['ranking_samplers']
# The losses that GHM can replace; what becomes of their settings, of `train_cfg`'s and of heads'.
CLASSIFICATION_LOSSES: Dict[str, bool] = _READ['classification_losses']
REGRESSION_LOSSES: Names = _READ['regression_losses']
ARGUMENTS: Dict[str, Dict[str, str]] = _READ['arguments']
TRAIN_CFG: Names = _READ['train_cfg']
STAGES: Names = _READ['stages']
SWITCHES: Dict[str, Names] = _READ['switches']
ARGUMENTS_OF_HEADS: Names = _READ['arguments_of_heads']
# Each of MMDetection's data sets to the numbers of classes that it may have.
CLASSES: Dict[str, List[int]] = _READ['classes']
# What becomes of what names a place or a run.
NEW_RUN: Dict[Fate, Names] = _READ['new_run']
NEW_RUN_OF_TRACKERS: Dict[Fate, Names] = _READ['new_run_of_trackers']
# By which a config of MMDetection 2.x is known.
KEYS_OF_2X: Names = _READ['keys_of_2x']
KEYS_OF_3X: Names = _READ['keys_of_3x']

_KINDS = get_type_hints(sys.modules[__name__])
if stray := {name.upper() for name in _READ} ^ _KINDS.keys():
    raise TypeError(f'rules.yml or rules.py lacks {", ".join(stray)}')
globals().update({n: typed(globals()[n], kind, f'rules.yml: {n}') for n, kind in _KINDS.items()})

CARRIED, MEANINGLESS = 'carried over', 'without meaning for GHM'
#: What the softmax form of GHM-C takes of a cross entropy, and the sigmoid form does not.
OF_SOFTMAX = ('class_weight', 'bg_cls_weight', 'ignore_index')
#: The packages whose heads are in the tables.
PACKAGES = ('mmdet', 'mmrotate', 'ghm_mmdet')
#: Optimizer wrappers that take `clip_grad`; None is MMEngine's default.
CLIPPING_WRAPPERS = (None, 'OptimWrapper', 'AmpOptimWrapper', 'ApexOptimWrapper')

NOT_SUMMED = "the head takes the loss as it is, and needs the sum: write reduction='sum'"
SOFTMAX = "a softmax: preset='tempered' keeps it, preset='released' replaces it"
IOU_LOSS = 'an IoU loss: no density of gradient norms is defined for it'
UNWRITTEN = 'use_sigmoid is not written: heads take that for False, the loss for True; write it'
TESTS_FOR_QUALITY = 'this head gives IoU targets to a QualityFocalLoss alone: GHM-C would lose them'
#: What `GHMSSDHead` changes of a softmax cross entropy that is not replaced.
MINED_FROM_THE_BATCH = 'hard negatives are mined from the mini-batch, not from each image'
DECODED_BOXES = f'reg_decoded_bbox=True: the head {HEADS["FCOSHead"]["loss_bbox"]}'
#: Heads whose `num_classes` is not that of the data set.
OTHER_CLASSES = RPN_HEADS + HEADS_OF_WORDS

for _stray in (
    {k for k in chain(KEYS, SWITCHES, *HEADS.values(), *ROI_HEADS.values()) if 'loss_' not in k},
    {*SOFTMAX_HEADS, *OTHER_CLASSES, *QUALITY_HEADS, *BATCH_DENSITY_HEADS} - HEADS.keys(),
    {*CLASSIFICATION_LOSSES, *REGRESSION_LOSSES} ^ ARGUMENTS.keys(),
):
    if _stray:
        raise ValueError(f'rules.yml: {", ".join(_stray)}: no such head or loss in the tables')
