"""Harmonize every config of MMDetection and of MMRotate, and write docs/compatibility.md.

Examples:
    python -m studies.compatibility run --json work_dirs/compatibility-onedl.json
    python -m studies.compatibility report work_dirs/compatibility-o*.json \\
        --out docs/compatibility.md
"""

from __future__ import annotations

import gc
import json
import logging
import re
import tempfile
import warnings
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import torch
from mmengine.config import Config, ConfigDict
from mmengine.logging import MMLogger
from torch import nn

from ghm_mmdet.cli.streams import command_line
from ghm_mmdet.reproduce.markdown import markdown_table
from ghm_mmdet.stacks import mmdet_distribution
from ghm_mmdet.swap import harmonize, inherited_config, losses_found

from . import rotated
from .tiny_step import CONFIGS, PRESET, build, has_masks, small_model, training_step


class Representative(NamedTuple):
    """The config that takes a training step for the heads of its type."""

    config: str  # its path among MMDetection's configs
    factor: int = 8  # what its numbers of channels are divided by
    size: int = 128  # of the images, in pixels


def _of(config: str, *settings: int) -> Representative:
    return Representative(f'{config}_coco.py', *settings)


REPRESENTATIVES = {
    'ATSSHead': _of('atss/atss_r50_fpn_1x'),
    'ATSSVLFusionHead': _of('glip/glip_atss_swin-t_a_fpn_dyhead_16xb2_ms-2x_funtune', 1),
    'BBoxHead': _of('faster_rcnn/faster-rcnn_r50-caffe-c4_ms-1x', 1),
    'BoxInstBboxHead': _of('boxinst/boxinst_r50_fpn_ms-90k'),
    'CondInstBboxHead': Representative('condinst/condinst_r50_fpn_ms-poly-90k_coco_instance.py'),
    'ConditionalDETRHead': _of('conditional_detr/conditional-detr_r50_8xb2-50e', 1),
    'DABDETRHead': _of('dab_detr/dab-detr_r50_8xb2-50e'),
    'DDODHead': _of('ddod/ddod_r50_fpn_1x', 8, 320),
    'DDQDETRHead': _of('ddq/ddq-detr-4scale_r50_8xb2-12e'),
    'DETRHead': _of('detr/detr_r50_8xb2-150e'),
    'DIIHead': _of('sparse_rcnn/sparse-rcnn_r50_fpn_1x'),
    'DINOHead': _of('dino/dino-4scale_r50_8xb2-12e', 1, 256),
    'DecoupledSOLOHead': _of('solo/decoupled-solo_r50_fpn_1x'),
    'DecoupledSOLOLightHead': _of('solo/decoupled-solo-light_r50_fpn_3x'),
    'DeformableDETRHead': _of('deformable_detr/deformable-detr_r50_16xb2-50e'),
    'DoubleConvFCBBoxHead': _of('double_heads/dh-faster-rcnn_r50_fpn_1x'),
    'FCOSHead': _of('fcos/fcos_r50-caffe_fpn_gn-head_1x'),
    'FoveaHead': _of('foveabox/fovea_r50_fpn_4xb4-1x'),
    'GARPNHead': _of('guided_anchoring/ga-rpn_r50_fpn_1x'),
    'GARetinaHead': _of('guided_anchoring/ga-retinanet_r50_fpn_1x'),
    'GFLHead': _of('gfl/gfl_r50_fpn_1x'),
    'GroundingDINOHead': _of('grounding_dino/grounding_dino_r50_scratch_8xb2_1x', 1),
    'LDHead': _of('ld/ld_r18-gflv1-r101_fpn_1x'),
    'Mask2FormerHead': _of('mask2former/mask2former_r50_8xb2-lsj-50e'),
    'Mask2FormerTrackHead': Representative(
        'mask2former_vis/mask2former_r50_8xb2-8e_youtubevis2019.py'
    ),
    'MaskFormerHead': _of('maskformer/maskformer_r50_ms-16xb1-75e'),
    'NASFCOSHead': _of('nas_fcos/nas-fcos_r50-caffe_fpn_nashead-gn-head_4xb4-1x'),
    'RPNHead': _of('rpn/rpn_r50_fpn_1x'),
    'RTMDetInsSepBNHead': _of('rtmdet/rtmdet-ins_tiny_8xb32-300e'),
    'RTMDetSepBNHead': _of('rtmdet/rtmdet_tiny_8xb32-300e'),
    'RepPointsHead': _of('reppoints/reppoints-moment_r50_fpn_1x'),
    'RetinaHead': _of('retinanet/retinanet_r50_fpn_1x'),
    'RetinaSepBNHead': _of('nas_fpn/retinanet_r50_nasfpn_crop640-50e'),
    'SABLHead': _of('sabl/sabl-faster-rcnn_r50_fpn_1x'),
    'SABLRetinaHead': _of('sabl/sabl-retinanet_r50_fpn_1x'),
    'SCNetBBoxHead': _of('scnet/scnet_r50_fpn_1x'),
    'SOLOHead': _of('solo/solo_r50_fpn_1x'),
    'SOLOV2Head': _of('solov2/solov2_r50_fpn_1x', 4),
    'SSDHead': _of('ssd/ssdlite_mobilenetv2-scratch_8xb24-600e', 1, 320),
    'Shared2FCBBoxHead': _of('faster_rcnn/faster-rcnn_r50_fpn_1x'),
    'Shared4Conv1FCBBoxHead': _of('gn+ws/faster-rcnn_r50_fpn_gn-ws-all_1x', 1),
    'StageCascadeRPNHead': _of('cascade_rpn/cascade-rpn_faster-rcnn_r50-caffe_fpn_1x'),
    'VFNetHead': _of('vfnet/vfnet_r50_fpn_1x'),
    'YOLOFHead': _of('yolof/yolof_r50-c5_8xb8-1x'),
    'YOLOV3Head': _of('yolo/yolov3_mobilenetv2_8xb24-320-300e', 1),
    'YOLOXHead': _of('yolox/yolox_s_8xb8-300e'),
}


@dataclass
class Scanned:
    """A config of MMDetection, and what became of it."""

    config: str  # its path among MMDetection's configs
    verdict: str  # one of VERDICTS
    why: str = ''  # it is refused or does not load
    #: The losses replaced: head, loss key, 'GHM-C' or 'GHM-R'.
    swaps: list[tuple[str, str, str]] = field(default_factory=list)
    #: The losses kept: head, loss key, loss, why.
    kept: list[tuple[str, str, str, str]] = field(default_factory=list)
    builds: bool | None = None  # None: it was not tried
    why_not: str = ''


GHM_NAMES = {'ghm_mmdet.GHMC': 'GHM-C', 'ghm_mmdet.GHMR': 'GHM-R'}
VERDICTS = ('harmonized', 'has GHM', 'refused', 'does not load')


def installed_configs(folder: Path = CONFIGS) -> list[str]:
    """The configs of the installed MMDetection, without the parts that they are made of."""
    files = (path.relative_to(folder) for path in folder.rglob('*.py'))
    return sorted(path.as_posix() for path in files if '_base_' not in path.parts)


def scan(name: str, out: Path, folder: Path = CONFIGS) -> Scanned:
    """Harmonize a config, write it to `out`, and assert that it is what is read from there."""
    path = folder / name
    try:
        cfg = Config.fromfile(path)
    except (ImportError, FileNotFoundError) as error:
        return Scanned(name, 'does not load', first_line(error))
    plan = losses_found(cfg, preset=PRESET)
    swaps, kept = set(), set()
    for loss in plan.losses:
        key = loss.where.rpartition('.')[2]
        if loss.ghm is None:
            kept.add((loss.head, key, loss.loss, loss.why))
        else:
            swaps.add((loss.head, key, GHM_NAMES[loss.ghm['type']]))
    scanned = Scanned(name, 'harmonized', swaps=sorted(swaps), kept=sorted(kept))
    if plan.replaced:
        new = harmonize(cfg, preset=PRESET)
        out.write_text(inherited_config(path, cfg, new, out), encoding='utf-8')
        written = Config.fromfile(out)
        assert written.to_dict() == new.to_dict(), f'{name} is not what was written'
        again = losses_found(written, preset=PRESET)
        assert not again.changes, f'{name} changes when harmonized again'
    elif plan.of_ghm:
        scanned.verdict = 'has GHM'
    else:
        scanned.verdict = 'refused'
        reasons = dict.fromkeys(why for *_, why in scanned.kept)
        none = 'no loss in it' if 'model' in cfg else 'no model in it'
        scanned.why = '; '.join(reasons) or none
    return scanned


#: Where the message of an error goes on to say what to do.
ADVICE = r'\n|, the current sys.path|\. Please check|, please install it| by executing'


def first_line(error: BaseException) -> str:
    """The error in a line, without the folders of this machine."""
    text = re.split(ADVICE, str(error).strip())[0]
    text = re.sub(r'[^\s\'"]*/\.mim/configs/', '', text).replace(str(Path.home()), '~')
    return f'{type(error).__name__}: {" ".join(text.split())}'[:200]


def step(representative: Representative) -> dict[str, float]:
    """Harmonize the config, make it small, take a training step; see `training_step`."""
    cfg = harmonize(CONFIGS / representative.config, preset=PRESET)
    model = build(small_model(cfg, representative.factor))
    return training_step(model, representative.size, has_masks(cfg))


class Library(NamedTuple):
    """A package whose configs are harmonized."""

    versions: dict[str, str]  # by the names that the results have for them
    configs: Path
    representatives: dict[str, Any]
    step: Callable[[Any], dict[str, float]]
    build: Callable[[ConfigDict], nn.Module]


def mmdetection() -> Library:
    versions = dict(mmdet=f'{mmdet_distribution()} {version(mmdet_distribution())}')
    return Library(versions, CONFIGS, REPRESENTATIVES, step, build)


def mmrotate() -> Library:
    versions = mmdetection().versions | dict(mmrotate=f'onedl-mmrotate {version("onedl-mmrotate")}')
    folder = rotated.configs()
    return Library(versions, folder, rotated.REPRESENTATIVES, rotated.step, rotated.build)


def try_build(name: str, library: Library, harmonized: bool = True) -> str:
    """Build the model of a config; '' or why it can't be."""
    cfg = Config.fromfile(library.configs / name)
    # On the meta device weights take no memory, but some constructors compute with numbers.
    for device in ('meta', 'cpu'):
        try:
            wanted = harmonize(cfg, preset=PRESET) if harmonized else cfg
            model = small_model(wanted, factor=1)
            with torch.device(device):
                library.build(model)
            return ''
        except Exception as error:
            why = first_line(error)
            if 'meta' not in str(error):
                break
    return why


def run(out: Path, library: Library, builds: bool = True) -> None:
    """Scan the configs, take a step with each representative, build the others; as JSON."""
    warnings.filterwarnings('ignore')
    MMLogger.get_current_instance().setLevel(logging.ERROR)
    say = partial(print, flush=True)
    with tempfile.TemporaryDirectory() as folder:
        written = Path(folder, 'written.py')
        names = installed_configs(library.configs)
        scanned = [scan(name, written, library.configs) for name in names]
    say(f'{len(scanned)} configs scanned')
    steps = {}
    for head, representative in library.representatives.items():
        try:
            steps[head] = max(library.step(representative).values())
        except Exception as error:
            steps[head] = first_line(error)
        say(f'{head}: {steps[head]}')
    for i, config in enumerate(s for s in scanned if builds and s.verdict == 'harmonized'):
        config.why_not = try_build(config.config, library)
        config.builds = not config.why_not
        if config.why_not and try_build(config.config, library, harmonized=False):
            config.why_not += ' (nor does the original)'
        if i % 50 == 0:
            say(f'{i} built')
            gc.collect()
    configs = [asdict(s) for s in scanned]
    out.parent.mkdir(parents=True, exist_ok=True)
    results = dict(**library.versions, torch=torch.__version__, configs=configs, steps=steps)
    out.write_text(json.dumps(results, indent=1), encoding='utf-8')


def report(results: list[dict[str, Any]]) -> str:
    """docs/compatibility.md from the results of `run`; from MMRotate's alone, its section."""
    plain = [result for result in results if 'mmrotate' not in result]
    parts = [document(plain)] if plain else []
    return '\n'.join([*parts, *(section(result) for result in results if 'mmrotate' in result)])


def section(result: dict[str, Any]) -> str:
    """The section on MMRotate."""
    configs = [Scanned(**config) for config in result['configs']]
    return SECTION.format(
        mmrotate=result['mmrotate'],
        totals=_totals([result]),
        swaps=_swap_table(configs),
    )


def document(results: list[dict[str, Any]]) -> str:
    """The page without the section on MMRotate, the first of the results for the tables."""
    first = results[0]
    configs = [Scanned(**config) for config in first['configs']]
    return PAGE.format(
        mmdet=first['mmdet'],
        totals=_totals(results),
        swaps=_swap_table(configs),
        refused=_refused_table(configs),
        exceptions=_exceptions(configs, results),
    )


PAGE = """\
# Compatibility with MMDetection's configs

What [`harmonize`](swap.md#a-config-with-other-losses) with `--preset released` does to every config
that MMDetection ships; the default preset [keeps more losses](swap.md#presets). Each is
harmonized, written and read back: it equals what `harmonize` returned, and harmonizing it again
changes nothing. Only the losses, the type of SSD's head, gradient clipping and the places that a
run writes to differ.

{totals}

The rest of this page is about {mmdet}.

## Heads whose losses are replaced

The numbers are those of the configs. One config for each type of head is made small and takes one
training step on the CPU: the loss is finite, every GHM loss is called, the gradient of the head is
finite and not zero. All heads do, but for those under [exceptions](#exceptions).

{swaps}

`harmonize --dry-run` says of each other loss why it is kept.

## Configs that are refused

None of their losses can be replaced.

{refused}

## Exceptions

Models keep their size in the build and have no pretrained weights. `(nor does the original)`: the
original config does not build either.

{exceptions}

## To reproduce

```shell
RESULTS=work_dirs/compatibility-onedl.json
python -m studies.compatibility run --json $RESULTS
python -m studies.compatibility report $RESULTS --out docs/compatibility.md
```

The row of the other stack comes from `run --no-builds` in its environment, into a file of its
own that `report` gets as well.
"""

SECTION = """\
## MMRotate

What `harmonize` does to the configs of {mmrotate}. A rotated box has five encoded offsets or more:
GHM-R takes them as it takes four.

{totals}

### MMRotate's heads whose losses are replaced

The training step is the one above. `RotatedIoULoss` needs an operator that mmcv has for CUDA alone:
the step has `GDLoss_v1` in its place, which is kept as well.

{swaps}

To reproduce: `run --mmrotate`, into a file of its own that `report` gets as well.
"""


def _totals(results: list[dict[str, Any]]) -> str:
    rows = []
    for result in results:
        verdicts = [config['verdict'] for config in result['configs']]
        tried = [config['builds'] for config in result['configs'] if config['builds'] is not None]
        steps = result['steps'].values()
        took = sum(isinstance(value, float) for value in steps)
        counts = [verdicts.count(verdict) for verdict in VERDICTS]
        built = sum(tried) if tried else ''
        rows.append([result['mmdet'], len(verdicts), *counts, built, f'{took} of {len(steps)}'])
    heads = ['MMDetection', 'configs', 'harmonized', 'have GHM already', 'refused', 'do not load']
    return markdown_table([*heads, 'of the harmonized build', 'heads that took a step'], rows)


def _grouped(pairs: Iterable[tuple[Any, str]]) -> dict[Any, list[str]]:
    """Each first to the different seconds that it stands with, in order."""
    groups: dict[Any, set[str]] = defaultdict(set)
    for key, value in pairs:
        groups[key].add(value)
    return {key: sorted(values) for key, values in groups.items()}


def _swap_table(configs: list[Scanned]) -> str:
    """The heads with their number of configs, grouped by the losses that are replaced."""
    swaps = [(config.config, *swap) for config in configs for swap in config.swaps]
    keys = _grouped(((head, ghm), f'`{key}`') for _, head, key, ghm in swaps)
    uses = _grouped((head, name) for name, head, _, _ in swaps)
    groups = _grouped(
        (
            tuple(', '.join(keys.get((head, ghm), ())) for ghm in GHM_NAMES.values()),
            f'`{head}` {len(found)}',
        )
        for head, found in uses.items()
    )
    rows = [
        [*names, ', '.join(heads)]
        for names, heads in sorted(groups.items(), key=lambda item: -len(item[1]))
    ]
    return markdown_table(['GHM-C for', 'GHM-R for', 'heads'], rows)


def _refused_table(configs: list[Scanned]) -> str:
    refused = [
        ('its losses are kept' if c.kept else c.why, c.config.partition('/')[0])
        for c in configs
        if c.verdict == 'refused'
    ]
    folders = _grouped((why, f'`{folder}`') for why, folder in refused)
    rows = [
        [sum(why == found for found, _ in refused), why, ', '.join(names)]
        for why, names in folders.items()
    ]
    rows.sort(key=lambda row: -row[0])
    return markdown_table(['configs', 'why', 'in'], rows)


def _exceptions(configs: list[Scanned], results: list[dict[str, Any]]) -> str:
    exceptions = [
        (('does not load', c.why) if c.builds is None else ('does not build', c.why_not), c.config)
        for c in configs
        if c.verdict == 'does not load' or c.builds is False
    ]
    for result in results:
        for head, value in result['steps'].items():
            if not isinstance(value, float):
                exceptions.append((('no training step', value), f'`{head}`, {result["mmdet"]}'))
    rows = []
    for (what, why), found in sorted(_grouped(exceptions).items(), key=lambda x: -len(x[1])):
        folders = sorted({f'`{name.partition("/")[0]}`' for name in found})
        steps = what == 'no training step'
        why = why.replace('_', r'\_')  # else `__init__` is bold
        rows.append([what, why, len(found), '; '.join(found) if steps else ', '.join(folders)])
    return markdown_table(['what', 'why', 'number', 'in'], rows)


@command_line()
def main() -> None:
    parser = ArgumentParser(description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    actions = parser.add_subparsers(dest='action', required=True)
    doing = actions.add_parser('run', help='scan, take training steps, build')
    default = Path('work_dirs/compatibility-onedl.json')
    doing.add_argument('--json', type=Path, default=default, help='default: %(default)s')
    doing.add_argument('--mmrotate', action='store_true', help="MMRotate's configs")
    doing.add_argument('--no-builds', action='store_true', help='do not build the models')
    telling = actions.add_parser('report', help='write the document')
    each = 'results of `run`: of one MMDetection each, or of MMRotate'
    telling.add_argument('json', type=Path, nargs='+', help=each)
    telling.add_argument('--out', type=Path, help='default: print it')
    args = parser.parse_args()
    if args.action == 'run':
        run(args.json, mmrotate() if args.mmrotate else mmdetection(), not args.no_builds)
        return
    text = report([json.loads(path.read_text(encoding='utf-8')) for path in args.json])
    if args.out:
        args.out.write_text(text, encoding='utf-8')
    else:
        print(text)


if __name__ == '__main__':
    main()
