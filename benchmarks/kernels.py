"""What the kernels are compiled to, and how often a loss launches; no GPU is needed.

Triton compiles every kernel of a call ahead of time, with the tensors' own alignment and sizes,
and the assembler's output is read: registers, instructions, barriers. The times are estimates, of
a GPU that issues one instruction a cycle on each of its schedulers and reads at its bandwidth.

Examples:
    python -m benchmarks.kernels
    python -m benchmarks.kernels --arch 75 80 90 100 --json kernels.json
With another Triton: `make triton`, then PYTHONPATH=.triton:. before the command.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from ghm_mmdet import ops
from ghm_mmdet.cli.places import file_to_write, write_text

#: For which targets the kernels are compiled: T4, A100, H100, B200.
ARCHS = (75, 80, 90, 100)
#: Warps that a multiprocessor holds.
WARPS_OF_SM = {75: 32, 80: 64, 90: 64, 100: 64}
#: The estimate's GPU, an H100 SXM: 132 multiprocessors with 4 schedulers at 1.755 GHz, 3.35 TB/s.
ISSUES_PER_SECOND = 132 * 4 * 1.755e9
BYTES_PER_SECOND = 3.35e12
#: Kernels over the logits.
PASSES = ('count', 'weigh')
#: RetinaNet's logits of two images of (800, 1333) at its first level, and what is estimated.
LOGITS = 12_096_000


@dataclass(frozen=True)
class Variant:
    """A call of GHM-C.

    Attributes:
        bins: M.
        rows, width: The shape of the predictions.
        target: 'labels' or 'dense'.
        weight: 'none', 'rows' or 'examples'.
        dtype: Of the predictions.
    """

    bins: int = 30
    rows: int = 4096
    width: int = 80
    target: str = 'labels'
    weight: str = 'rows'
    dtype: str = 'float32'

    def __str__(self) -> str:
        odd = '' if self.rows * self.width % 16 == 0 else f', {self.rows} x {self.width}'
        weight = f'weight of {self.weight}' if self.weight != 'none' else 'no weight'
        return f'M = {self.bins}, {self.target}, {weight}, {self.dtype}{odd}'


#: As MMDetection's heads call the losses, and what is hard for a compiler: odd sizes.
VARIANTS = (
    Variant(),
    Variant(dtype='float16'),
    Variant(dtype='bfloat16'),
    Variant(weight='none'),
    Variant(target='dense', weight='examples'),
    Variant(bins=10),
    Variant(bins=49),
    Variant(rows=4099, width=20),
    Variant(rows=4099, width=3),
)


@dataclass
class Kernel:
    """A compiled kernel.

    Attributes:
        name: Of the function.
        variant: What it was compiled for.
        arch: The target, 90 for sm_90.
        warps: Of a block.
        elements: Elements a thread works on.
        registers: Of a thread.
        local: Instructions on local memory, LDL and STL: what is spilled.
        instructions: Of the whole kernel.
        barriers: Instructions BAR.
        fences: Instructions MEMBAR.
        bytes_an_element: What is read and written.
    """

    name: str
    variant: str
    arch: int
    warps: int
    elements: float
    registers: int
    local: int
    instructions: int
    barriers: int
    fences: int
    bytes_an_element: float

    @property
    def instructions_an_element(self) -> float:
        return self.instructions / self.elements

    @property
    def occupancy(self) -> float:
        """The share of a multiprocessor's warps that the registers leave room for."""
        of_warp = -(-self.registers * 32 // 256) * 256
        blocks = 65536 // (of_warp * self.warps)
        return min(blocks * self.warps / WARPS_OF_SM[self.arch], 1.0)

    @property
    def seconds_of_issue(self) -> float:
        return LOGITS * self.instructions_an_element / 32 / ISSUES_PER_SECOND

    @property
    def seconds_of_memory(self) -> float:
        return LOGITS * self.bytes_an_element / BYTES_PER_SECOND


@dataclass
class Launches:
    """What a call launches: kernels of PyTorch and Triton, by name."""

    forward: list[str]
    backward: list[str]


def call(variant: Variant, momentum: float = 0.75) -> Callable[[], Tensor]:
    """A call of the registered loss with tensors of the CPU."""
    from ghm_mmdet import GHMC

    generator = torch.Generator().manual_seed(0)
    shape = (variant.rows, variant.width)
    pred = torch.randn(shape, generator=generator).to(getattr(torch, variant.dtype))
    labels = torch.randint(0, variant.width + 1, shape[:1], generator=generator)
    dense = torch.rand(shape, generator=generator)
    weight = dict(none=None, rows=torch.ones(shape[0]), examples=torch.ones(shape))[variant.weight]
    loss = GHMC(variant.bins, momentum)
    pred.requires_grad_()
    return lambda: loss(pred, labels if variant.target == 'labels' else dense, weight)


def ready() -> None:
    """Let CPU tensors stand for those of a GPU: kernels are compiled, and nothing runs."""
    if os.environ.get('TRITON_INTERPRET') == '1':
        raise RuntimeError('TRITON_INTERPRET must not be set: the interpreter compiles nothing')
    import ghm_mmdet.ops.triton_kernels  # noqa: F401

    # The choice asks for the interpreter where tensors are of the CPU; `recorded` is none.
    os.environ.update(GHM_MMDET_KERNELS='triton', TRITON_INTERPRET='1')


@contextmanager
def recorded(on_launch: Callable[[Any, Any], None], arch: int | None) -> Iterator[None]:
    """Give each launch to `on_launch`, compiled for `arch`, and launch nothing."""
    from triton.backends.compiler import GPUTarget
    from triton.runtime import JITFunction, driver

    run = JITFunction.run

    def record(self: Any, *args: Any, grid: Any, warmup: bool, **kwargs: Any) -> Any:
        compiled = None
        if arch is not None:
            compiled = run(self, *args, grid=grid, warmup=True, **kwargs)
        return on_launch(self.fn.__name__, compiled)

    device = SimpleNamespace(
        get_current_device=lambda: arch,
        get_current_stream=lambda _: 0,
        get_current_target=lambda: GPUTarget('cuda', arch, 32),
    )
    driver.set_active(device)
    with mock.patch.object(JITFunction, 'run', record):
        yield


def compiled(variant: Variant, arch: int) -> list[Kernel]:
    """The kernels over the examples of a call, forward and backward."""
    kernels: list[Kernel] = []

    def keep(name: str, kernel: Any) -> None:
        name = name.strip('_').removesuffix('_kernel')
        if name not in PASSES:
            return
        names = kernel.src.fn.arg_names
        constants = {names[at[0]]: value for at, value in kernel.src.constants.items()}
        warps = kernel.metadata.num_warps
        registers, opcodes = _assembly(kernel.asm['cubin'])
        kernels.append(
            Kernel(
                name,
                str(variant),
                arch,
                warps,
                constants['BLOCK'] / (32 * warps),
                registers,
                opcodes['LDL'] + opcodes['STL'],
                sum(opcodes.values()),
                opcodes['BAR'],
                opcodes['MEMBAR'],
                _bytes_an_element(name, variant),
            )
        )

    with recorded(keep, arch):
        call(variant)().backward()
    return kernels


def launches(variant: Variant = VARIANTS[0], momentum: float = 0.75) -> Launches:
    """What a second call launches, where the first has made what is made once."""
    function = call(variant, momentum)
    with recorded(lambda *_: None, None):
        function().backward()
        # Under a dispatch mode the plain formula would be chosen.
        untraced = mock.patch.object(ops, 'is_traced', return_value=False)
        with untraced, _Launches() as forward, recorded(forward.launch, None):
            loss = function()
        with _Launches() as backward, recorded(backward.launch, None):
            loss.backward()
    # Autograd begins with the gradient 1 of a loss, in training that of the sum of all losses.
    seed = backward.names.pop(0)
    assert seed == 'ones_like', seed
    # And keeps the gradient in `pred.grad`, where the layer before would take it.
    names = [name for name in backward.names if name != 'add_']
    return Launches(forward.names, names)


class _Launches(TorchDispatchMode):
    """Notes each operator of PyTorch that launches a kernel on a GPU."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def launch(self, name: str, _: Any = None) -> None:
        self.names.append(name)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._schema.name.split('::')[1]
        is_view = any(r.alias_info and not r.alias_info.is_write for r in func._schema.returns)
        if not is_view and not re.match(r'(new_)?empty|_unsafe_view|_reshape|promote_types', name):
            self.names.append(name)
        return func(*args, **(kwargs or {}))


def _bytes_an_element(name: str, variant: Variant) -> float:
    item = 4 if variant.dtype == 'float32' else 2
    read: float = item
    read += 8 / variant.width if variant.target == 'labels' else 4
    read += dict(none=0, rows=4 / variant.width, examples=4)[variant.weight]
    return read + (4 if name == 'weigh' else 0)


@lru_cache
def _tool(name: str) -> str:
    import triton

    return str(Path(triton.__file__).parent / 'backends' / 'nvidia' / 'bin' / name)


def _assembly(cubin: bytes) -> tuple[int, Counter[str]]:
    """Registers, and how many of each instruction."""
    with tempfile.NamedTemporaryFile(suffix='.cubin') as file:
        file.write(cubin)
        file.flush()
        usage = _output(_tool('cuobjdump'), '-res-usage', file.name)
        sass = _output(_tool('cuobjdump'), '-sass', file.name)
    found = re.search(r'REG:(\d+)', usage)
    assert found, usage
    opcodes = re.findall(r'^\s+/\*[0-9a-f]+\*/\s+(?:@!?U?P\w+\s+)?([A-Z0-9]+)', sass, re.MULTILINE)
    return int(found[1]), Counter(o for o in opcodes if o != 'NOP')


def _output(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def table(kernels: list[Kernel]) -> str:
    """Markdown."""
    rows = [
        '| kernel | sm | registers | local | instructions an element | occupancy | MEMBAR '
        '| bytes an element | issue, µs | memory, µs |',
        '|---|---|---|---|---|---|---|---|---|---|',
    ]
    for k in kernels:
        rows.append(
            f'| {k.name}: {k.variant} | {k.arch} | {k.registers} | {k.local} '
            f'| {k.instructions_an_element:.1f} | {k.occupancy:.0%} | {k.fences} '
            f'| {k.bytes_an_element:.2f} | {k.seconds_of_issue * 1e6:.0f} '
            f'| {k.seconds_of_memory * 1e6:.0f} |'
        )
    return '\n'.join(rows)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    archs = 'compute capabilities to compile for; default: 90'
    parser.add_argument('--arch', type=int, nargs='+', choices=ARCHS, default=[90], help=archs)
    parser.add_argument('--variants', type=int, help='only the first so many; default: all')
    parser.add_argument('--json', type=file_to_write, help='write the numbers to this file')
    parser.add_argument('--quiet', action='store_true', help='print no table')
    args = parser.parse_args()
    ready()
    import triton

    counted = launches()
    variants = VARIANTS[: args.variants]
    kernels = [k for arch in args.arch for v in variants for k in compiled(v, arch)]
    if not args.quiet:
        print(f'Triton {triton.__version__}, times estimated for {LOGITS:,} elements on an H100\n')
        print(f'{len(counted.forward)} launches forward, {len(counted.backward)} backward')
        print(f'\n{table(kernels)}')
    if args.json:
        result = dict(
            triton=triton.__version__,
            launches=asdict(counted),
            kernels=[
                asdict(k) | dict(instructions_an_element=k.instructions_an_element) for k in kernels
            ],
        )
        write_text(args.json, json.dumps(result, indent=2))


if __name__ == '__main__':
    main()
