"""Settings of GHM-C and GHM-R that go together, by name."""

from dataclasses import dataclass
from typing import Any

from .released import GHM_C, GHM_R


@dataclass(frozen=True)
class Preset:
    """What `harmonize` puts in the place of a loss whose weight is 1.

    Attributes:
        ghm_c, ghm_r: The configs of the losses.
        mean_of_levels: Whether the weight is divided by the number of FPN levels where a head
            calls the loss for each and adds up: one mean over the mini-batch, as in Eqs. 8 and
            19, in the place of a sum of as many means as there are levels.
    """

    ghm_c: dict[str, Any]
    ghm_r: dict[str, Any]
    mean_of_levels: bool = False


PRESETS = {
    # The released code's, which were made for COCO.
    'released': Preset(GHM_C, GHM_R),
    # For some hundreds of images and a pretrained backbone; measured in docs/small-data.md.
    'small-data': Preset(
        {**GHM_C, 'formula': 'tempered'},
        {**GHM_R, 'momentum': 0, 'formula': 'floored', 'mu_momentum': 0.9},
        mean_of_levels=True,
    ),
}
