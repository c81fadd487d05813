"""GHM into any MMDetection config."""

from __future__ import annotations

import copy
import tempfile
from pathlib import Path
from typing import Any, Union

from mmengine.config import Config, ConfigDict

from ..presets import Options
from .plan import Plan, make_plan
from .writer import inherited_config

ConfigLike = Union[Config, str, Path]


def harmonize(
    cfg: ConfigLike,
    cls: bool = True,
    reg: bool = True,
    **options: Any,
) -> Config:
    """A copy of a config with GHM-C and GHM-R in the place of its losses, where they fit.

    Classification losses become GHM-C ('tempered' keeps those of a softmax), losses of encoded
    box offsets GHM-R; `losses_found` says why others are kept. The gradient is clipped at norm
    10, with 'released' at the authors' 35, if the config does not clip it.

    `loss_weight` is that of the loss replaced, times the released code's 1 for GHM-C and 10 for
    GHM-R, 4 beside a softmax that is kept. Where a head averages over its levels together but
    calls the loss for each (RPN), it is divided by their number. Where it averages a regression
    loss over sampled negatives too (RPN, R-CNN), it is multiplied by the share of positives among
    the samples, for GHM-R averages over the positives alone. With `formula='tempered'` GHM-C
    divides by the head's `avg_factor` as the loss replaced does: its weight is that of the loss,
    times α of a focal loss (0.25), whatever the levels. μ is 0.02 divided by the mean of the
    coder's `target_stds`.

    Args:
        cfg: A config, its path, or a name as 'mmdet::retinanet/retinanet_r50_fpn_1x_coco.py'.
            It is not changed.
        cls: Whether to replace classification losses. Default: True.
        reg: Whether to replace regression losses. Default: True.
        preset: 'tempered', for data of one's own, see docs/recipe.md; or 'released', the released
            code's settings, as published for COCO. Default: 'tempered'.
        head: Replace only in heads whose type ('RPNHead') or place ('roi_head.*') matches this
            pattern of `fnmatch`. Default: None, all.
        bins: M. Default: None, the preset's: 30 for GHM-C and 10 for GHM-R.
        momentum: α of the moving average. Default: None, the preset's.
        formula: 'official', 'paper', 'floored' or 'tempered', see `GHMC`. Default: None, the
            preset's.
        batch_density: Compute the density over all levels, where there is a head that does
            (`ghm_mmdet.GHMRetinaHead` for `RetinaHead`). Default: False.

    Returns:
        The new config.

    Raises:
        TypeError, ValueError: An option of the wrong type or outside the allowed values;
            `head` matches no head; no loss of the config can be replaced.
    """
    cfg = load(cfg)
    return apply(_plan_or_refuse(cfg, Options(cls, reg, **options)), cfg)


def harmonized_text(cfg: str | Path, out: str | Path | None, **options: Any) -> tuple[Plan, str]:
    """What `harmonize` did, and the text of a config at `out` that inherits from the original.

    Args:
        cfg: The path or the name of the original.
        out: Where the text will be written; it is not written here. None if it is not known.
        **options: As for `harmonize`.

    Raises:
        TypeError, ValueError: As `harmonize`; `out` is the config itself.
    """
    original = load(cfg)
    if out is not None and '::' not in str(cfg) and Path(cfg).resolve() == Path(out).resolve():
        raise ValueError(f'out must be another file than the config, got {str(out)!r}')
    plan = _plan_or_refuse(original, Options(**options))
    harmonized = apply(plan, original)
    return plan, inherited_config(cfg, original, harmonized, out, str(plan))


def _plan_or_refuse(cfg: Config, options: Options) -> Plan:
    plan = make_plan(cfg, options)
    if not plan.has_ghm:
        raise ValueError(f'no loss can be replaced by GHM\n{plan}'.rstrip())
    return plan


def losses_found(cfg: ConfigLike, cls: bool = True, reg: bool = True, **options: Any) -> Plan:
    """What `harmonize` would do, with the same arguments: `print(losses_found(cfg))`.

    Returns:
        The plan: `.losses`, a `LossFound` for every loss of the config, `.notes`, and as a
        string a line for each.

    Raises:
        TypeError, ValueError: As `harmonize`, but for a config where no loss can be replaced.
    """
    return make_plan(load(cfg), Options(cls, reg, **options))


def load(cfg: ConfigLike) -> Config:
    """A config from its path or from a name with `::`; a `Config` as it is."""
    if isinstance(cfg, Config):
        return cfg
    if not isinstance(cfg, (str, Path)):
        raise TypeError(f'cfg must be a Config, a path or a name, got {type(cfg).__name__}')
    if '::' not in str(cfg):
        return Config.fromfile(cfg)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, 'config.py')
        file.write_text(f'_base_ = {str(cfg)!r}\n', encoding='utf-8')
        return Config.fromfile(file)


def apply(plan: Plan, cfg: Config) -> Config:
    """A copy of the config with the changes of the plan; what they don't touch is shared."""
    harmonized = copy.copy(cfg)
    for key in {path[0] for path in plan.changes if len(path) > 1}:
        harmonized[key] = copy.deepcopy(cfg[key])
    for path, value in plan.changes.items():
        node = harmonized
        for key in path[:-1]:
            node = node[key]
        value = copy.deepcopy(value)
        node[path[-1]] = ConfigDict(value) if isinstance(value, dict) else value
    return harmonized
