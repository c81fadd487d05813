"""Time and memory of the losses at RetinaNet's shapes, as Markdown tables.

Beside cross entropy, focal loss and the built-in GHM. All candidates of a table run in turn,
round after round, so that noise hits all alike; the tables give medians over the rounds.

Examples:
    python -m benchmarks.losses --logits 12.1e6 --threads 2 --json losses.json
    python -m benchmarks.losses scaling --logits 12.1e6 --threads 2
    python -m benchmarks.losses iteration --image-size 320 --threads 2
"""

from __future__ import annotations

import json
import os
import platform
import time
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from itertools import product
from statistics import median, quantiles
from typing import Callable, Tuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from ghm_mmdet.cli.places import file_to_write, write_text
from ghm_mmdet.experiments.markdown import markdown_table
from ghm_mmdet.functional import ghm_c_loss, ghm_r_loss
from ghm_mmdet.losses import GHMR
from ghm_mmdet.ops.trial import VARIABLE
from ghm_mmdet.presets import PRESETS

NUM_CLASSES = 80
ANCHORS_PER_CELL = 9
STRIDES = (8, 16, 32, 64, 128)
# (800, 1333), padded to multiples of 32.
IMAGE_SHAPE = (800, 1344)
BATCH_SIZE = 2
DTYPES = dict(float32=torch.float32, float16=torch.float16, bfloat16=torch.bfloat16)


#: What a head calls a loss with: predictions, which require a gradient, targets and weights.
Examples = Tuple[Tensor, Tensor, Tensor]
Loss = Callable[..., Tensor]


@dataclass
class Row:
    """One line of a table: of a candidate, medians over the rounds and their quartiles."""

    name: str
    seconds: float
    low: float
    high: float
    ratio: float  # the time relative to the first candidate's in the same round
    ratio_low: float
    ratio_high: float
    peak_bytes: int  # of the memory beyond what was held before


def anchors_per_level() -> list[int]:
    """Anchors of one image at each stride."""
    height, width = IMAGE_SHAPE
    return [-(-height // s) * -(-width // s) * ANCHORS_PER_CELL for s in STRIDES]


def make_levels(
    num_logits: int | None, dtype: torch.dtype, device: torch.device, seed: int = 0
) -> dict[str, list[Examples]]:
    """Random tensors of RetinaNet's shapes, as many as `num_logits`, None for all of them.

    The logits are those of a detector in the midst of training: most far below 0. One anchor
    in a thousand is positive, one in 500 ignored.

    Returns:
        For each level with N anchors 'classification': logits (N, 80), labels (N,), of which 80
        is background, weight (N,); and 'regression': offsets, targets and weight (N, 4).
    """
    generator = torch.Generator().manual_seed(seed)
    rows = [n * BATCH_SIZE for n in anchors_per_level()]
    scale = 1.0 if num_logits is None else num_logits / (sum(rows) * NUM_CLASSES)
    levels: dict[str, list[Examples]] = dict(classification=[], regression=[])
    for n in (max(1, round(n * scale)) for n in rows):
        logits = torch.randn(n, NUM_CLASSES, generator=generator) * 1.5 - 4
        labels = torch.randint(0, NUM_CLASSES, (n,), generator=generator)
        chance = torch.rand(n, generator=generator)
        labels[chance > 0.001] = NUM_CLASSES
        offsets, targets = torch.randn(2, n, 4, generator=generator) / 5
        positive = (labels < NUM_CLASSES).float().unsqueeze(1).expand(n, 4)
        for kind, pred, target, weight in (
            ('classification', logits, labels, (chance < 0.998).float()),
            ('regression', offsets, targets, positive),
        ):
            pred = pred.to(device, dtype).requires_grad_()
            levels[kind].append((pred, target.to(device), weight.to(device)))
    return levels


def concatenated(levels: Sequence[Examples]) -> list[Examples]:
    """All levels as one, as `GHMRetinaHead` calls its losses."""
    pred, target, weight = (torch.cat(tensors).detach() for tensors in zip(*levels))
    return [(pred.requires_grad_(), target, weight)]


def binary_cross_entropy(logits: Tensor, labels: Tensor, weight: Tensor) -> Tensor:
    """PyTorch's, with the one-hot target it needs, built as a head would."""
    rows = (labels < NUM_CLASSES).nonzero().squeeze(1)
    p_star = torch.zeros_like(logits)
    p_star[rows, labels[rows]] = 1
    weight = weight.to(p_star.dtype).unsqueeze(1)
    return F.binary_cross_entropy_with_logits(logits, p_star, weight)


def smooth_l1(offsets: Tensor, targets: Tensor, weight: Tensor) -> Tensor:
    loss = F.smooth_l1_loss(offsets, targets.to(offsets.dtype), reduction='none')
    return (loss * weight).sum()


def candidates(kind: str, bins: int, device: torch.device) -> tuple[dict[str, Loss], list[str]]:
    """The losses by name, the first one the yardstick; and notes on those left out."""
    losses: dict[str, Loss]
    if kind == 'classification':
        losses, built_in = {'torch BCE, one-hot': binary_cross_entropy}, ('FocalLoss', 'GHMC')
    else:
        losses, built_in = {'torch smooth L1': smooth_l1}, ('GHMR',)
    notes = []
    for name in built_in:
        settings = {} if name == 'FocalLoss' else dict(bins=bins)
        try:
            loss = getattr(import_module('mmdet.models.losses'), name)(**settings).to(device)
            losses[f'MMDetection {name}'] = partial(loss, avg_factor=1.0)
        except ImportError as error:
            notes.append(f'MMDetection {name}: left out, it cannot be imported here: {error}')
    ours = partial(ghm_c_loss if kind == 'classification' else ghm_r_loss, bins=bins)
    # GHM-R is the plain formula.
    for kernels in available_kernels(device) if kind == 'classification' else ['torch']:
        losses[f'ours, region, {kernels or "blocks"}'] = partial(_call, ours, kernels)
    losses['ours, exact'] = partial(ours, density='exact')
    if kind == 'regression':
        losses['ours, μ follows'] = GHMR(bins=bins, mu_momentum=0.9).to(device)
    return losses, notes


def available_kernels(device: torch.device) -> list[str]:
    """The values of GHM_MMDET_KERNELS worth timing on the device: '' has blocks on the CPU."""
    if device.type == 'cpu':
        return ['', 'torch']
    return ['triton', 'torch'] if find_spec('triton') is not None else ['torch']


def _call(loss: Loss, kernels: str, *examples: Tensor) -> Tensor:
    with _environment(VARIABLE, kernels):
        return loss(*examples)


@contextmanager
def _environment(name: str, value: str) -> Iterator[None]:
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        del os.environ[name]
        if before is not None:
            os.environ[name] = before


def forward_and_backward(loss: Loss, levels: Sequence[Examples]) -> None:
    """One call per level, the sum of all backwards; the gradients are let go at the end."""
    sum(loss(*examples) for examples in levels).backward()
    for pred, _, _ in levels:
        pred.grad = None


def compare(
    runs: dict[str, Callable[[], None]], device: torch.device, rounds: int, warm_up: int
) -> tuple[list[Row], list[str]]:
    """Time the candidates in turn, round by round, then their peak memory.

    Returns:
        A row for each, relative to the first; and notes on those that failed.
    """
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    notes: list[str] = []
    for turn in range(warm_up + rounds):
        # There and back again, so that none always runs after the same other one.
        for name in list(seconds)[:: 1 if turn % 2 == 0 else -1]:
            try:
                elapsed = _time(runs[name], device)
            except (RuntimeError, NotImplementedError, AttributeError, ImportError) as error:
                del seconds[name]
                notes.append(f'{name}: left out, it fails here: {str(error).splitlines()[0]}')
                continue
            if turn >= warm_up:
                seconds[name].append(elapsed)
    first = next(iter(seconds.values()), [])
    rows = []
    for name, times in seconds.items():
        ratios = [mine / reference for mine, reference in zip(times, first)]
        peak = peak_memory(runs[name], device)
        rows.append(Row(name, *_median_and_quartiles(times), *_median_and_quartiles(ratios), peak))
    return rows, notes


def _median_and_quartiles(values: list[float]) -> tuple[float, float, float]:
    low, middle, high = quantiles(values, n=4) if len(values) > 1 else values * 3
    return middle, low, high


def _passes(losses: dict[str, Loss], levels: Sequence[Examples]) -> dict[str, Callable[[], None]]:
    return {name: partial(forward_and_backward, loss, levels) for name, loss in losses.items()}


def _time(run: Callable[[], None], device: torch.device) -> float:
    _wait(device)
    start = time.perf_counter()
    run()
    _wait(device)
    return time.perf_counter() - start


def _wait(device: torch.device) -> None:
    if device.type == 'cuda':
        torch.cuda.synchronize(device)


def peak_memory(run: Callable[[], None], device: torch.device) -> int:
    """Bytes of tensors that `run` holds at its worst, beyond what was held before."""
    if device.type == 'cuda':
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        run()
        return torch.cuda.max_memory_allocated(device) - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        run()
    held = peak = 0
    events = profiler.profiler.kineto_results.events()
    for event in sorted(events, key=lambda event: event.start_ns()):
        if event.name() == '[memory]':
            held += event.nbytes()
            peak = max(peak, held)
    return peak


def floor_seconds(levels: Sequence[Examples], rounds: int = 20) -> float | None:
    """On CUDA: the time of two reads and one write of the logits, at the speed of a copy."""
    logits = torch.cat([logits.detach() for logits, _, _ in levels])
    if logits.device.type != 'cuda':
        return None
    copy = torch.empty_like(logits)
    times = [_time(lambda: copy.copy_(logits), logits.device) for _ in range(rounds)]
    return median(times) * 3 / 2


def scaling(
    device: torch.device, num_logits: int, rounds: int, warm_up: int
) -> dict[str, list[Row]]:
    """GHM-C of the region density over N at M = 30, and over M at N = `num_logits`."""
    runs = {}
    for part in (8, 4, 2, 1):
        levels = make_levels(num_logits // part, torch.float32, device)['classification']
        whole = concatenated(levels)
        runs |= _passes({f'N = {whole[0][0].numel():,}': partial(ghm_c_loss, bins=30)}, whole)
    losses = {f'M = {m}': partial(ghm_c_loss, bins=m) for m in (10, 20, 30, 50, 100)}
    return {
        'N': compare(runs, device, rounds, warm_up)[0],
        'M': compare(_passes(losses, whole), device, rounds, warm_up)[0],
    }


def training_iteration(
    image_size: int, device: torch.device, rounds: int, warm_up: int, images: int = 2
) -> list[Row]:
    """A whole iteration of one RetinaNet-R50 with focal + smooth L1 and with GHM, in turn.

    A step of SGD on random images with five random boxes each.
    """
    from mmdet.testing import demo_mm_inputs
    from mmdet.utils import register_all_modules
    from mmengine.hub import get_config
    from mmengine.registry import MODELS

    register_all_modules(init_default_scope=True)
    config = get_config('mmdet::retinanet/retinanet_r50_fpn_1x_coco.py').model
    config.backbone.init_cfg = None
    model = MODELS.build(config).to(device).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-5, momentum=0.9)
    shapes = [(3, image_size, image_size)] * images
    inputs = demo_mm_inputs(images, shapes, num_items=[5] * images, num_classes=NUM_CLASSES)
    batch = model.data_preprocessor(inputs, True)

    def with_losses(*configs: dict) -> Callable[[], None]:
        loss_cls, loss_bbox = (MODELS.build(dict(config)).to(device) for config in configs)

        def step() -> None:
            model.bbox_head.loss_cls, model.bbox_head.loss_bbox = loss_cls, loss_bbox
            optimizer.zero_grad()
            losses = model(**batch, mode='loss')
            sum(sum(v) if isinstance(v, list) else v for v in losses.values()).backward()
            nn.utils.clip_grad_norm_(model.parameters(), 35)
            optimizer.step()

        return step

    sl1 = dict(type='SmoothL1Loss', beta=1 / 9)
    runs = {'focal + smooth L1': with_losses(config.bbox_head.loss_cls, sl1)}
    for name, preset in PRESETS.items():
        runs[f'GHM-C + GHM-R, {name}'] = with_losses(preset.ghm_c, preset.ghm_r)
    return compare(runs, device, rounds, warm_up)[0]


def format_table(title: str, rows: Sequence[Row], floor: float | None = None) -> str:
    """Markdown: medians, quartiles, ratios to the first row and, on CUDA, to the floor."""
    head = ['', 'median ms', 'quartiles ms', 'x first', 'quartiles', 'peak MB', 'x first']
    lines = [
        [
            row.name,
            f'{row.seconds * 1e3:.1f}',
            f'{row.low * 1e3:.1f} to {row.high * 1e3:.1f}',
            f'{row.ratio:.2f}',
            f'{row.ratio_low:.2f} to {row.ratio_high:.2f}',
            f'{row.peak_bytes / 1e6:.1f}',
            f'{row.peak_bytes / max(rows[0].peak_bytes, 1):.2f}',
        ]
        for row in rows
    ]
    if floor is not None:
        head.append('x floor')
        for row, line in zip(rows, lines):
            line.append(f'{row.seconds / floor:.2f}')
    return f'### {title}\n\n{markdown_table(head, lines)}'


def machine(device: torch.device) -> dict[str, object]:
    """What the numbers were measured on."""
    name = platform.processor() or platform.machine()
    if device.type == 'cuda':
        name = torch.cuda.get_device_name(device)
    versions = dict(torch=torch.__version__, python=platform.python_version())
    return dict(device=name, threads=torch.get_num_threads(), **versions)


def benchmark(
    num_logits: int | None, device: torch.device, dtype: torch.dtype, bins: int, **repeat: int
) -> tuple[dict[str, object], str]:
    """All losses, per level and concatenated: what `--json` writes, and the tables."""
    levels = make_levels(num_logits, dtype, device)
    count = sum(logits.numel() for logits, _, _ in levels['classification'])
    result: dict[str, object] = dict(machine=machine(device), dtype=str(dtype), bins=bins)
    texts = []
    for layout, kind in product(('per level', 'concatenated'), levels):
        shaped = levels[kind] if layout == 'per level' else concatenated(levels[kind])
        is_cls = kind == 'classification'
        floor = floor_seconds(shaped) if is_cls else None
        losses, left_out = candidates(kind, bins if is_cls else 10, device)
        rows, failed = compare(_passes(losses, shaped), device, **repeat)
        notes = left_out + failed
        texts.append(format_table(f'{kind}, {layout}, {count:,} logits', rows, floor))
        texts += [f'- {note}' for note in notes]
        result[f'{kind}, {layout}'] = dict(
            logits=count, floor_seconds=floor, rows=[asdict(row) for row in rows], notes=notes
        )
    return result, '\n\n'.join(texts)


def main() -> None:
    parser = ArgumentParser(description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    add = parser.add_argument
    modes = ['losses', 'scaling', 'iteration']
    add('mode', nargs='?', choices=modes, default='losses', help='default: %(default)s')
    add('--logits', type=lambda s: int(float(s)), help='scale the shapes to as many; default: all')
    device = 'cuda' if torch.cuda.is_available() else 'cpu'
    add('--device', default=device, help='default: cuda where there is one, else cpu')
    add('--dtype', choices=DTYPES, default='float32', help='default: %(default)s')
    add('--bins', type=int, default=30, help='M of GHM-C; default: 30')
    add('--rounds', type=int, default=15, help='that are counted; default: %(default)s')
    add('--warm-up', type=int, default=3, help='rounds that are not counted')
    add('--threads', type=int, help='of PyTorch on the CPU')
    add('--image-size', type=int, default=320, help='of `iteration`')
    add('--json', type=file_to_write, help='write the numbers to this file')
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    device = torch.device(args.device)
    repeat = dict(rounds=args.rounds, warm_up=args.warm_up)
    if args.mode == 'losses':
        result, text = benchmark(args.logits, device, DTYPES[args.dtype], args.bins, **repeat)
    else:
        if args.mode == 'scaling':
            tables = scaling(device, args.logits or 32_256_000, **repeat)
        else:
            rows = training_iteration(args.image_size, device, **repeat)
            tables = {f'RetinaNet-R50, 2 images of {args.image_size} px': rows}
        numbers = {name: [asdict(row) for row in rows] for name, rows in tables.items()}
        result = dict(machine=machine(device), tables=numbers)
        text = '\n\n'.join(format_table(name, rows) for name, rows in tables.items())
    print(machine(device), text, sep='\n\n')
    if args.json:
        write_text(args.json, json.dumps(result, indent=2))


if __name__ == '__main__':
    main()
