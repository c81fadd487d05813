"""GHM into any MMDetection config."""

from __future__ import annotations

import copy
from inspect import signature
from pathlib import Path
from typing import Any, Union

from mmengine.config import Config, ConfigDict
from mmengine.utils import get_installed_path

from ..presets import Options
from ..suggest import did_you_mean
from . import rules
from .decide import OFFICIAL
from .plan import Plan, baseline_plan, make_plan
from .writer import inherited_config

ConfigLike = Union[Config, str, Path]


def harmonize(
    cfg: ConfigLike,
    cls: bool = True,
    reg: bool = True,
    *,
    preset: str | None = None,
    head: str | None = None,
    bins: int | None = None,
    momentum: float | None = None,
    formula: str | None = None,
    batch_density: bool = False,
    sync: bool = False,
    record: bool = False,
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

    With `batch_density` the loss weights of the head that changes are multiplied by L of its L
    levels, by √L with 'tempered' and 'floored', so that both losses stay as large as the sum of
    those of the levels.

    MMDetection's own `GHMC` and `GHMR` become those of this package with their settings and their
    weight; what is chosen beside takes their place, with `preset` all of its settings.

    The new training is one of its own: `work_dir`, `experiment_name`, the names and paths of
    trackers and evaluators get `_ghm` at their end, ids of runs and `resume` are dropped, and
    `losses_found(cfg).notes` says so.

    Args:
        cfg: A config, its path, or a name as 'mmdet::retinanet/retinanet_r50_fpn_1x_coco.py'.
            It is not changed.
        cls: Whether to replace classification losses. Default: True.
        reg: Whether to replace regression losses. Default: True.
        preset: 'tempered', for data of one's own, see docs/recipe.md; or 'released', the released
            code's settings, as published for COCO. Default: None, 'tempered', and the settings of
            MMDetection's own GHM losses stay.
        head: Replace only in heads whose type ('RPNHead') or place ('roi_head.*') matches this
            pattern of `fnmatch`. Default: None, all.
        bins: M. Default: None, the preset's: 30 for GHM-C and 10 for GHM-R.
        momentum: α of the moving average. Default: None, the preset's.
        formula: 'official', 'paper', 'floored' or 'tempered', see `GHMC`. Default: None, the
            preset's.
        batch_density: Compute the density over all levels, where there is a head that does
            (`ghm_mmdet.GHMRetinaHead` for `RetinaHead`). Default: False.
        sync: Sum the counts over all processes, see `GHMC`. Default: False.
        record: Add `ghm_mmdet.GradientDensityHook` to `custom_hooks`: it observes the first GHM-C
            of sigmoids and the last GHM-R. Default: False.

    Returns:
        The new config, which shares nothing with `cfg`.

    Raises:
        TypeError, ValueError: An option of the wrong type, outside the allowed values or
            without effect; `head` matches no head; with `sync`, a head that does not call its
            loss in every iteration; a number of the config that is none, or makes no sense as α
            of 0; no loss of the config can be replaced; a config of MMDetection 2.x.

    Examples:
        >>> from ghm_mmdet import harmonize
        >>> cfg = harmonize('mmdet::retinanet/retinanet_r50_fpn_1x_coco.py')
        >>> cfg.model.bbox_head.loss_cls.type
        'ghm_mmdet.GHMC'
        >>> cfg.optim_wrapper.clip_grad
        {'max_norm': 10, 'norm_type': 2}
    """
    cfg = load(cfg)
    options = Options(cls, reg, preset, head, bins, momentum, formula, batch_density, sync, record)
    return copy.deepcopy(apply(_plan_or_refuse(cfg, options), cfg))


def losses_found(cfg: ConfigLike, *args: Any, **options: Any) -> Plan:
    """What `harmonize` would do, with the same arguments: `print(losses_found(cfg))`.

    Returns:
        The plan: `.losses`, a `LossFound` for every loss of the config, `.notes`, and as a
        string a line for each.

    Raises:
        TypeError, ValueError: As `harmonize`, but for a config where no loss can be replaced.
    """
    chosen = Options(*args, **options)
    return make_plan(load(cfg), chosen)


losses_found.__signature__ = signature(harmonize).replace(return_annotation=Plan)  # type: ignore[attr-defined]


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
    plan = _plan_or_refuse(original, options, _suffix(cfg, out, 'ghm'))
    if out is not None and Path(cfg).stem == Path(out).stem and not original.get('work_dir'):
        folder = f'MMDetection trains both configs in work_dirs/{Path(out).stem}'
        plan.notes.append(f'work_dir: {folder}, unless --work-dir names another')
    return plan, inherited_config(cfg, original, apply(plan, original), out, str(plan))


def baseline_text(cfg: str | Path, out: str | Path | None, harmonized: Plan) -> str:
    """The text of a config at `out` with the original's losses and the gradient clipped.

    A harmonized config is clipped. Compared with the original alone, GHM would be credited with
    what clipping does.

    Args:
        cfg, out: As for `harmonized_text`.
        harmonized: The plan of the harmonized config, whose hook the baseline gets as well.

    Raises:
        ValueError: The gradient can't be clipped from the config, or is as often already.
    """
    original = load(cfg)
    plan = baseline_plan(original, harmonized.hook, _suffix(cfg, out, 'baseline'))
    return inherited_config(cfg, original, apply(plan, original), out, str(plan))


def _suffix(cfg: str | Path, out: str | Path | None, default: str) -> str:
    """What tells the new training from that of the original: `ghm`, for mine_ghm.py of mine.py."""
    if out is None:
        return default
    if '::' not in str(cfg) and Path(cfg).resolve() == Path(out).resolve():
        raise ValueError(f'out must be another file than the config, got {str(out)!r}')
    own, new = Path(cfg).stem, Path(out).stem
    return (new[len(own) :] if new.startswith(own) else new).strip('_-') or default


def _plan_or_refuse(cfg: Config, options: Options, suffix: str = 'ghm') -> Plan:
    plan = make_plan(cfg, options, suffix)
    if not plan.of_ghm:
        raise ValueError(f'no loss can be replaced by GHM\n{plan}'.rstrip())
    if not plan.changes:
        _refuse_without_effect(plan, options)
    return plan


def _refuse_without_effect(plan: Plan, options: Options) -> None:
    """Refuse options for losses that are GHM's already, unless these have such settings."""
    defaults = dict(bins=10, momentum=0, formula=OFFICIAL, sync=False)
    chooses = options.head is not None or not (options.cls and options.reg)
    for loss in plan.of_ghm:
        of_preset = {'formula': OFFICIAL, **options.settings(loss.loss)} if options.preset else {}
        asked = {**of_preset, **options.chosen, **({'sync': True} if options.sync else {})}
        theirs = {key: loss.original.get(key, default) for key, default in defaults.items()}
        if chooses or any(asked.get(key, value) != value for key, value in theirs.items()):
            with_them = ', '.join(f'{key}={value!r}' for key, value in theirs.items())
            raise ValueError(
                f'the options have no effect: {loss.where} is {loss.loss} already, {with_them}; '
                'harmonize the config with the original losses'
            )


def load(cfg: ConfigLike) -> Config:
    """A config from its path or from a name with `::`; a `Config` as it is.

    Raises:
        TypeError: `cfg` is none of these.
        FileNotFoundError: There is no such file.
        ValueError: It is a config of MMDetection 2.x.
    """
    if not isinstance(cfg, (Config, str, Path)):
        raise TypeError(f'cfg must be a Config, a path or a name, got {type(cfg).__name__}')
    if not isinstance(cfg, Config):
        base = f'_base_ = {str(cfg)!r}\n'
        try:
            cfg = Config.fromstring(base, '.py') if '::' in base else Config.fromfile(cfg)
        except FileNotFoundError as error:
            what = 'a folder, not a config' if Path(cfg).is_dir() else error
            raise FileNotFoundError(f'{what}{_similar(str(cfg))}') from error
    of_2x = [key for key in rules.KEYS_OF_2X if key in cfg]
    if of_2x and not any(key in cfg for key in rules.KEYS_OF_3X):
        raise ValueError(
            f'{", ".join(of_2x)} at the top of the config: it is one of MMDetection 2.x; '
            'docs/coming-from-2.x.md has the keys of 3.x'
        )
    return cfg


def _similar(cfg: str) -> str:
    """What may have been meant by a path or a name of nothing."""
    package, _, name = cfg.rpartition('::')
    folder = Path(get_installed_path(package), '.mim/configs') if package else Path(cfg).parent
    paths = folder.glob('**/*.py' if package else '*.py')
    known = [path.relative_to(folder).as_posix() for path in paths]
    name = name if package else Path(cfg).name
    return '' if name in known else did_you_mean(name, known)


def apply(plan: Plan, cfg: Config) -> Config:
    """The config with the changes of the plan; it shares with `cfg` what they don't touch."""
    harmonized = copy.copy(cfg)
    for (*parents, last), value in plan.changes.items():
        node: Any = harmonized
        for key in parents:
            inner = node[key]
            node[key] = list(inner) if isinstance(inner, tuple) else copy.copy(inner)
            node = node[key]
        node[last] = ConfigDict(value=value)['value']
    return harmonized
