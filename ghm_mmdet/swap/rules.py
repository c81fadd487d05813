"""What is known of the heads and their losses: the tables of `rules.yml`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, Union

from ..data_files import read_yaml


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

    ghm: str
    reduction: str = 'mean'
    averaged_levels: bool = False
    positives: float = 1.0
    target_stds: float = 1.0
    summed: bool = False
    skipped: str = ''
    note: str = ''
    kept: str | None = None


#: What a head calls: the key of each loss to how, or to why it is kept.
Calls = Dict[str, Union[Call, str]]

_TABLES = read_yaml(Path(__file__).with_name('rules.yml'))


def _calls(row: dict[str, Any]) -> Calls:
    return {key: Call(**call) if isinstance(call, dict) else call for key, call in row.items()}


#: Each head to its calls.
HEADS: dict[str, Calls] = {
    name: _calls(row) for names, row in _TABLES['heads'].items() for name in names.split()
}
#: Other heads by name, to the head that takes their place, or to why their losses stay.
HEADS_WITH_LOSSES: dict[str, str] = _TABLES['heads_with_losses']
HEADS_WITHOUT_LOSSES: dict[str, str] = _TABLES['heads_without_losses']
BATCH_DENSITY_HEADS: dict[str, str] = _TABLES['batch_density_heads']

#: Groups of heads.
SOFTMAX_HEADS: list[str] = _TABLES['softmax_heads'].split()
RPN_HEADS: list[str] = _TABLES['rpn_heads'].split()
OTHER_CLASSES: list[str] = RPN_HEADS + _TABLES['heads_of_words'].split()
QUALITY_HEADS: list[str] = _TABLES['quality_heads'].split()

#: Why a loss is kept, by its key, its type, the detector, and the RoI head.
KEYS: dict[str, str] = _TABLES['keys']
LOSSES: dict[str, str] = _TABLES['losses']
DETECTORS: dict[str, str] = _TABLES['detectors']
ROI_HEADS: dict[str, dict[str, str]] = _TABLES['roi_heads']
RANKING_SAMPLERS: list[str] = _TABLES['ranking_samplers'].split()

#: The losses that GHM can replace; what becomes of their settings, of `train_cfg`'s and of heads'.
CARRIED, MEANINGLESS = _TABLES['fates']
CLASSIFICATION_LOSSES: dict[str, bool] = _TABLES['classification_losses']
REGRESSION_LOSSES: list[str] = _TABLES['regression_losses'].split()
ARGUMENTS: dict[str, dict[str, str]] = _TABLES['arguments']
TRAIN_CFG: list[str] = _TABLES['train_cfg'].split()
STAGES: list[str] = _TABLES['stages'].split()
SWITCHES: dict[str, list[str]] = _TABLES['switches']
ARGUMENTS_OF_HEADS: list[str] = _TABLES['arguments_of_heads'].split()

#: Each of MMDetection's data sets to the numbers of classes that it may have.
CLASSES = {name: set(numbers) for name, numbers in _TABLES['classes'].items()}

#: What the softmax form of GHM-C takes of a cross entropy, and the sigmoid form does not.
OF_SOFTMAX = ('class_weight', 'bg_cls_weight', 'ignore_index')
#: The packages whose heads are in the tables.
PACKAGES = ('mmdet', 'mmrotate', 'ghm_mmdet')
#: Optimizer wrappers that take `clip_grad`; None is MMEngine's default.
CLIPPING_WRAPPERS = (None, 'OptimWrapper', 'AmpOptimWrapper', 'ApexOptimWrapper')

NOT_SUMMED = "the head takes the loss as it is, and needs the sum: write reduction='sum'"
SOFTMAX = "a softmax: preset='tempered' keeps it, preset='released' replaces it"
IOU_LOSS = 'an IoU loss: no density of gradient norms is defined for it'
DECODED_BOXES = f'reg_decoded_bbox=True: the head {HEADS["FCOSHead"]["loss_bbox"]}'
UNWRITTEN = 'use_sigmoid is not written: heads take that for False, the loss for True; write it'
TESTS_FOR_QUALITY = 'this head gives IoU targets to a QualityFocalLoss alone: GHM-C would lose them'
#: What `GHMSSDHead` changes of a softmax cross entropy that is not replaced.
MINED_FROM_THE_BATCH = 'hard negatives are mined from the mini-batch, not from each image'
