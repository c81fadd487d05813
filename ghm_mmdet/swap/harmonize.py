"""GHM into any MMDetection config."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Union

from mmengine.config import Config, ConfigDict

from ..presets import Options
from .plan import GHM_LOSSES, OFFICIAL, Plan, make_plan, settings_of
from .writer import inherited_config

ConfigLike = Union[Config, str, Path]


def harmonize(
    cfg: ConfigLike,
    cls: bool = True,
    reg: bool = True,
    *,
    preset: str = 'tempered',
    head: str | None = None,
    bins: int | None = None,
    momentum: float | None = None,
    formula: str | None = None,
    batch_density: bool = False,
    sync: bool = False,
) -> Config:
    """A copy of a config with GHM-C and GHM-R in the place of its losses, where they fit.

    Classification losses become GHM-C ('tempered' keeps those of a softmax and the objectness of
    YOLOX and YOLOv3), losses of encoded box offsets GHM-R; `losses_found` says why others are
    kept. The gradient is clipped at norm 10, with 'released' at the authors' 35, if the config
    does not clip it.

    `loss_weight` is that of the loss replaced, times the released code's 1 for GHM-C and 10 for
    GHM-R, 4 beside a softmax that is kept. Where a head averages over its levels together but
    calls the loss for each (RPN), it is divided by their number. Where it averages a regression
    loss over sampled negatives too (RPN, R-CNN), it is multiplied by the share of positives among
    the samples, for GHM-R averages over the positives alone. With `formula='tempered'` GHM-C
    divides by the head's `avg_factor` as the loss replaced does: its weight is that of the loss,
    times α of a focal loss (0.25), whatever the levels. μ is 0.02 divided by the mean of the
    coder's `target_stds`.

    `work_dir` and `resume` of the config are dropped: the new training is one of its own.

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
        sync: Sum the counts over all processes, see `GHMC`. Default: False.

    Returns:
        The new config, which shares nothing with `cfg`.

    Raises:
        TypeError, ValueError: An option of the wrong type, outside the allowed values or
            without effect; `head` matches no head; with `sync`, a head that does not call its
            loss in every iteration; a number of the config that is none; no loss of the config
            can be replaced.

    Examples:
        >>> from ghm_mmdet import harmonize
        >>> cfg = harmonize('mmdet::retinanet/retinanet_r50_fpn_1x_coco.py')
        >>> cfg.model.bbox_head.loss_cls.type
        'ghm_mmdet.GHMC'
        >>> cfg.optim_wrapper.clip_grad
        {'max_norm': 10, 'norm_type': 2}
    """
    cfg = load(cfg)
    options = Options(cls, reg, preset, head, bins, momentum, formula, batch_density, sync)
    return copy.deepcopy(apply(_plan_or_refuse(cfg, options), cfg))


def harmonized_text(cfg: str | Path, out: str | Path | None, options: Options) -> tuple[Plan, str]:
    """What `harmonize` did, and the text of a config at `out` that inherits from the original.

    Args:
        cfg: The path or the name of the original.
        out: Where the text will be written; it is not written here. None if it is not known.
        options: Those of `harmonize`.

    Returns:
        The plan, which says what becomes of each loss, and the text.

    Raises:
        TypeError, ValueError: As `harmonize`; `out` is the config itself.
    """
    original = load(cfg)
    if out is not None and '::' not in str(cfg) and Path(cfg).resolve() == Path(out).resolve():
        raise ValueError(f'out must be another file than the config, got {str(out)!r}')
    plan = _plan_or_refuse(original, options)
    harmonized = apply(plan, original)
    return plan, inherited_config(cfg, original, harmonized, out, str(plan))


def _plan_or_refuse(cfg: Config, options: Options) -> Plan:
    plan = make_plan(cfg, options)
    if not plan.has_ghm:
        raise ValueError(f'no loss can be replaced by GHM\n{plan}'.rstrip())
    told = replace(options, cls=True, reg=True, head=None, batch_density=False)
    if not plan.replaced and told != Options():
        _check_settings_of_ghm(plan, options)
    return plan


def _check_settings_of_ghm(plan: Plan, options: Options) -> None:
    """Refuse options for losses that are GHM's already and have other settings."""
    for loss in plan.losses:
        if loss.loss in GHM_LOSSES:
            chosen = dict(settings_of(options, loss.loss), sync=options.sync)
            theirs = loss.original
            for key, default in dict(bins=10, momentum=0, formula=OFFICIAL, sync=False).items():
                if chosen.get(key, default) != theirs.get(key, default):
                    raise ValueError(
                        f'the options have no effect: {loss.where} is {loss.loss} already, with '
                        f'{key}={theirs.get(key)!r}; harmonize the config with the original losses'
                    )


def losses_found(
    cfg: ConfigLike,
    cls: bool = True,
    reg: bool = True,
    *,
    preset: str = 'tempered',
    head: str | None = None,
    bins: int | None = None,
    momentum: float | None = None,
    formula: str | None = None,
    batch_density: bool = False,
    sync: bool = False,
) -> Plan:
    """What `harmonize` would do, with the same arguments: `print(losses_found(cfg))`.

    Returns:
        The plan: `.losses`, a `LossFound` for every loss of the config, `.notes`, and as a
        string a line for each.

    Raises:
        TypeError, ValueError: As `harmonize`, but for a config where no loss can be replaced.
    """
    options = Options(cls, reg, preset, head, bins, momentum, formula, batch_density, sync)
    return make_plan(load(cfg), options)


def load(cfg: ConfigLike) -> Config:
    """A config from its path or from a name with `::`; a `Config` as it is."""
    if isinstance(cfg, Config):
        return cfg
    if not isinstance(cfg, (str, Path)):
        raise TypeError(f'cfg must be a Config, a path or a name, got {type(cfg).__name__}')
    if '::' not in str(cfg):
        return Config.fromfile(cfg)
    return Config.fromstring(f'_base_ = {str(cfg)!r}\n', '.py')


def apply(plan: Plan, cfg: Config) -> Config:
    """The config with the changes of the plan; it shares with `cfg` what they don't touch."""
    harmonized = copy.copy(cfg)
    for (key, *path), value in plan.changes.items():
        harmonized[key] = _with(harmonized.get(key), path, value)
    return harmonized


def _with(node: Any, path: Sequence[str | int], value: Any) -> Any:
    """A copy of nested dicts and lists with a value at a place."""
    if not path:
        return ConfigDict(value) if isinstance(value, dict) else value
    key, *rest = path
    items: Any = list(node) if isinstance(node, tuple) else copy.copy(node)
    items[key] = _with(items[key] if rest else None, rest, value)
    return tuple(items) if isinstance(node, tuple) else items
