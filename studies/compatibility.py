"""Harmonize every config of the installed MMDetection, and write docs/compatibility.md.

Examples:
    python -m studies.compatibility run --json work_dirs/compatibility-onedl.json
    python -m studies.compatibility report work_dirs/compatibility-o*.json \\
        --out docs/compatibility.md
"""

import argparse
import gc
import json
import logging
import tempfile
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.logging import MMLogger

from ghm_mmdet.reproduce.markdown import markdown_table
from ghm_mmdet.reproduce.runs import mmdet_distribution
from ghm_mmdet.swap import Plan, harmonize, inherited_config, losses_found

from .tiny_step import CONFIGS, build, has_masks, small_model, training_step


@dataclass(frozen=True)
class Representative:
    """The config that takes a training step for the heads of its type.

    Attributes:
        config: Its path among MMDetection's configs.
        factor: What its numbers of channels are divided by.
        size: Of the images, in pixels.
    """

    config: str
    factor: int = 8
    size: int = 128


def _of(config: str, factor: int = 8, size: int = 128) -> Representative:
    return Representative(f'{config}_coco.py', factor, size)


REPRESENTATIVES = {
    'ATSSHead': _of('atss/atss_r50_fpn_1x'),
    'ATSSVLFusionHead': _of('glip/glip_atss_swin-t_a_fpn_dyhead_16xb2_ms-2x_funtune', 1),
    'BBoxHead': _of('faster_rcnn/faster-rcnn_r50-caffe-c4_ms-1x', 1),
    'BoxInstBboxHead': _of('boxinst/boxinst_r50_fpn_ms-90k'),
    'CondInstBboxHead': Representative('condinst/condinst_r50_fpn_ms-poly-90k_coco_instance.py'),
    'ConditionalDETRHead': _of('conditional_detr/conditional-detr_r50_8xb2-50e', 1),
    'DABDETRHead': _of('dab_detr/dab-detr_r50_8xb2-50e'),
    'DDODHead': _of('ddod/ddod_r50_fpn_1x', size=320),
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
    """A config of MMDetection, and what became of it.

    Attributes:
        config: Its path among MMDetection's configs.
        verdict: 'harmonized', 'has GHM', 'refused' or 'does not load'.
        why: Why it is refused or does not load.
        swaps: The losses replaced, as (head, loss key, 'GHM-C' or 'GHM-R').
        kept: The losses kept, as (head, loss key, loss, why).
        builds: Whether the harmonized model was built; None where it was not tried.
        why_not: Why it was not.
    """

    config: str
    verdict: str
    why: str = ''
    swaps: list[tuple[str, str, str]] = field(default_factory=list)
    kept: list[tuple[str, str, str, str]] = field(default_factory=list)
    builds: bool | None = None
    why_not: str = ''


def installed_configs() -> list[str]:
    """The configs of the installed MMDetection, without the parts that they are made of."""
    files = (path.relative_to(CONFIGS) for path in CONFIGS.rglob('*.py'))
    return sorted(path.as_posix() for path in files if '_base_' not in path.parts)


def scan(name: str, out: Path) -> Scanned:
    """Harmonize a config, write it to `out`, and check what is read from there.

    Raises:
        AssertionError: The config that was written is not the harmonized one, or harmonizing
            it again changes something.
    """
    path = CONFIGS / name
    try:
        cfg = Config.fromfile(path)
    except (ImportError, FileNotFoundError) as error:
        return Scanned(name, 'does not load', first_line(error))
    plan = losses_found(cfg)
    scanned = Scanned(name, _verdict(plan), swaps=_swaps(plan), kept=_kept(plan))
    if scanned.verdict == 'refused':
        scanned.why = '; '.join(dict.fromkeys(why for *_, why in scanned.kept))
        scanned.why = scanned.why or ('no loss in it' if 'model' in cfg else 'no model in it')
    if scanned.verdict == 'harmonized':
        new = harmonize(cfg)
        out.write_text(inherited_config(path, cfg, new, out))
        written = Config.fromfile(out)
        assert plain(written) == plain(new), f'{name} is not what was written'
        assert not losses_found(written).changes, f'{name} changes when harmonized again'
    return scanned


def _verdict(plan: Plan) -> str:
    if plan.replaced:
        return 'harmonized'
    return 'has GHM' if plan.has_ghm else 'refused'


def _swaps(plan: Plan) -> list[tuple[str, str, str]]:
    names = {'ghm_mmdet.GHMC': 'GHM-C', 'ghm_mmdet.GHMR': 'GHM-R'}
    found = [(x.head, x.where.rpartition('.')[2], names[x.ghm['type']]) for x in plan.replaced]
    return sorted(set(found))


def _kept(plan: Plan) -> list[tuple[str, str, str, str]]:
    kept = [x for x in plan.losses if x.ghm is None]
    return sorted({(x.head, x.where.rpartition('.')[2], x.loss, x.why) for x in kept})


def plain(value: Any) -> Any:
    """A config as dicts, lists and tuples, to be compared."""
    if isinstance(value, Config):
        value = value._cfg_dict
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(plain(item) for item in value)
    return value


def first_line(error: BaseException) -> str:
    """The error in a line, without the folders of this machine."""
    text = str(error).strip().partition('\n')[0].split(', the current sys.path')[0]
    text = text.replace(f'{CONFIGS}/', '').replace(str(Path.home()), '~')
    return f'{type(error).__name__}: {" ".join(text.split())}'[:200]


def step(representative: Representative) -> dict[str, float]:
    """Harmonize the config, make it small, take a training step; see `training_step`."""
    cfg = harmonize(CONFIGS / representative.config)
    model = build(small_model(cfg, representative.factor))
    return training_step(model, representative.size, has_masks(cfg))


def try_build(name: str, harmonized: bool = True) -> str:
    """Build the model of a config; '' or why it can't be."""
    cfg = Config.fromfile(CONFIGS / name)
    why = ''
    # On the meta device weights take no memory, but some constructors compute with numbers.
    for device in ('meta', 'cpu'):
        try:
            model = small_model(harmonize(cfg) if harmonized else cfg, factor=1)
            with torch.device(device):
                build(model)
        except Exception as error:
            why = first_line(error)
            if device == 'meta' and 'meta' not in str(error):
                break
        else:
            return ''
    return why


def run(
    out: str | Path,
    configs: Iterable[str] | None = None,
    builds: bool = True,
    report: Callable[[str], None] = print,
) -> None:
    """Scan the configs, take a step with each representative, build the others; as JSON.

    Args:
        out: The JSON file.
        configs: Paths among MMDetection's configs. Default: None, all.
        builds: Whether to build the models too.
        report: Called with a line of progress now and then.
    """
    warnings.filterwarnings('ignore')
    MMLogger.get_current_instance().setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory() as folder:
        scanned = [
            scan(name, Path(folder, 'written.py')) for name in configs or installed_configs()
        ]
    report(f'{len(scanned)} configs scanned')
    steps = {}
    for head, representative in REPRESENTATIVES.items():
        try:
            steps[head] = max(step(representative).values())
        except Exception as error:
            steps[head] = first_line(error)
        report(f'{head}: {steps[head]}')
    if builds:
        for i, config in enumerate(s for s in scanned if s.verdict == 'harmonized'):
            config.why_not = try_build(config.config)
            config.builds = not config.why_not
            if config.why_not and try_build(config.config, harmonized=False):
                config.why_not += ' (nor does the original)'
            if i % 50 == 0:
                report(f'{i} built')
                gc.collect()
    distribution = mmdet_distribution()
    results = dict(
        mmdet=f'{distribution} {version(distribution)}',
        torch=torch.__version__,
        configs=[asdict(s) for s in scanned],
        steps=steps,
    )
    Path(out).parent.mkdir(parents=True, exist_ok=True)
    Path(out).write_text(json.dumps(results, indent=1))


def document(results: list[dict[str, Any]]) -> str:
    """docs/compatibility.md from the results of `run`, the first for the tables."""
    first = results[0]
    configs = [Scanned(**config) for config in first['configs']]
    parts = [
        INTRODUCTION,
        _totals(results),
        OF_THE_FIRST.format(mmdet=first['mmdet']),
        '## Heads whose losses are replaced',
        STEP_NOTE,
        _swap_table(configs, results),
        '## Losses that are kept',
        _kept_table(configs),
        '## Configs that are refused',
        _refused_table(configs),
        '## Exceptions',
        _exceptions(configs, results),
    ]
    return '\n\n'.join(part.rstrip() for part in parts) + '\n'


INTRODUCTION = """\
# Compatibility with MMDetection's configs

What [`harmonize`](swap.md#a-config-with-other-losses) does to every config that MMDetection
ships. This page is written by

```shell
python -m studies.compatibility run --json work_dirs/compatibility-onedl.json
python -m studies.compatibility report work_dirs/compatibility-o*.json --out docs/compatibility.md
```

and, in the environment of the other stack, before the report:

```shell
python -m studies.compatibility run --no-builds --json work_dirs/compatibility-openmmlab.json
```

Each config is harmonized, written as a config that inherits from it, and read again: what is
read equals what `harmonize` returned, and harmonizing it again changes nothing. A test
compares it with the original, key by key: only the losses, the type of SSD's head and gradient
clipping differ.
"""

OF_THE_FIRST = """\
What follows is of {mmdet}. No config crashes: each is harmonized, has GHM already, is refused
with a reason, or can not be loaded, without GHM either. A config that is harmonized and does not
build is listed under the exceptions; `(nor does the original)` says that the original does not
build either.
"""

STEP_NOTE = """\
One config for each type of head is made small (channels divided by 8 where its parts allow, two
random images of 128 to 320 pixels with ten boxes each) and takes one training step on the CPU: the
loss is finite, every GHM loss was called, the gradient of the head is finite and not zero. For the
build the model keeps its size, without pretrained weights.
"""


def _totals(results: list[dict[str, Any]]) -> str:
    rows = []
    for result in results:
        configs = [Scanned(**config) for config in result['configs']]
        verdicts = [config.verdict for config in configs]
        tried = [config.builds for config in configs if config.builds is not None]
        built = sum(tried) if tried else ''
        steps = list(result['steps'].values())
        took = sum(isinstance(value, float) for value in steps)
        counts = [verdicts.count(v) for v in ('harmonized', 'has GHM', 'refused', 'does not load')]
        rows.append([result['mmdet'], len(configs), *counts, built, f'{took} of {len(steps)}'])
    header = [
        'MMDetection',
        'configs',
        'harmonized',
        'have GHM already',
        'refused',
        'do not load',
        'of the harmonized build',
        'heads that took a step',
    ]
    return markdown_table(header, rows)


def _swap_table(configs: list[Scanned], results: list[dict[str, Any]]) -> str:
    uses: dict[str, set[str]] = defaultdict(set)
    swaps: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    for config in configs:
        for head, key, ghm in config.swaps:
            uses[head].add(config.config)
            swaps[head][ghm].add(key)
    rows = []
    for head in sorted(uses):
        names = [', '.join(f'`{k}`' for k in sorted(swaps[head][g])) for g in ('GHM-C', 'GHM-R')]
        rows.append([f'`{head}`', len(uses[head]), *names, _trains(head, results)])
    return markdown_table(['head', 'configs', 'GHM-C for', 'GHM-R for', 'trains a step'], rows)


def _trains(head: str, results: list[dict[str, Any]]) -> str:
    value = results[0]['steps'].get(head, 'not tried')
    return 'yes' if isinstance(value, float) else f'no: {value}'


def _kept_table(configs: list[Scanned]) -> str:
    uses: dict[tuple[str, str], set[str]] = defaultdict(set)
    heads: dict[tuple[str, str], set[str]] = defaultdict(set)
    for config in configs:
        for head, key, loss, why in config.kept:
            entry = (f'`{key}`' if key.startswith(('loss', 'initial')) else '-', f'{loss}|{why}')
            uses[entry].add(config.config)
            heads[entry].add(f'`{head}`')
    rows = []
    for (key, text), found in sorted(uses.items()):
        loss, _, why = text.partition('|')
        rows.append([key, loss, ', '.join(sorted(heads[key, text])), len(found), why])
    return markdown_table(['key', 'loss', 'heads', 'configs', 'why'], rows)


def _refused_table(configs: list[Scanned]) -> str:
    by_reason: dict[str, list[str]] = defaultdict(list)
    for config in configs:
        if config.verdict == 'refused':
            by_reason[config.why].append(config.config)
    rows = [
        [len(names), folders(names), why]
        for why, names in sorted(by_reason.items(), key=lambda item: -len(item[1]))
    ]
    return markdown_table(['configs', 'in', 'why'], rows)


def folders(names: Iterable[str]) -> str:
    return ', '.join(sorted({f'`{name.partition("/")[0]}`' for name in names}))


def _exceptions(configs: list[Scanned], results: list[dict[str, Any]]) -> str:
    names: dict[tuple[str, str], list[str]] = defaultdict(list)
    for config in configs:
        if config.verdict == 'does not load':
            names['does not load', config.why].append(config.config)
        elif config.builds is False:
            names['does not build', config.why_not].append(config.config)
    for result in results:
        for head, value in result['steps'].items():
            if not isinstance(value, float):
                what = f'no training step of `{head}`, {result["mmdet"]}'
                names[what, value].append(REPRESENTATIVES[head].config)
    rows = [
        [what, why, len(found), ', '.join(f'`{name}`' for name in found)]
        for (what, why), found in sorted(names.items(), key=lambda item: -len(item[1]))
    ]
    return markdown_table(['what', 'why', 'configs', 'which'], rows)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    actions = parser.add_subparsers(dest='action', required=True)
    doing = actions.add_parser('run', help='scan, take training steps, build')
    doing.add_argument('--json', type=Path, default=Path('work_dirs/compatibility-onedl.json'))
    doing.add_argument('--no-builds', action='store_true', help='do not build the models')
    telling = actions.add_parser('report', help='write the document')
    telling.add_argument(
        'json', type=Path, nargs='+', help='results of `run`; of one MMDetection each'
    )
    telling.add_argument('--out', type=Path, help='default: print it')
    args = parser.parse_args()
    if args.action == 'run':
        run(args.json, builds=not args.no_builds, report=lambda line: print(line, flush=True))
        return
    text = document([json.loads(path.read_text()) for path in args.json])
    if args.out:
        args.out.write_text(text)
    else:
        print(text)


if __name__ == '__main__':
    main()
