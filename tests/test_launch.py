"""Several processes as users start them: MIM, tools/dist_train.sh, tools/slurm_train.sh."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from ghm_mmdet.reproduce.runs import mim_command

ROOT = Path(__file__).parent.parent
SINGLE = 'configs/demo/retinanet_r18_fpn_ghmc-ghmr-batch_demo.py'
TWO = 'tests/configs/two_processes.py'
#: One epoch of 5 iterations, in which nothing but the losses sees more than one image: no focal
#: loss first, no statistics of BatchNorm; and no random flips.
OPTIONS = (
    '--cfg-options', 'train_cfg.max_epochs=1', 'train_cfg.val_interval=1', 'custom_hooks=None',
    'model.backbone.norm_eval=True', 'train_dataloader.dataset.pipeline.2.prob=0.0',
    'optim_wrapper.optimizer.type=SGD', 'optim_wrapper.optimizer.lr=0.01',
    'model.test_cfg.score_thr=0.0',
)  # fmt: skip


def free_port() -> int:
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        return s.getsockname()[1]


def run(command: list[str], **environment: str) -> str:
    return finish(start(command, **environment))


def start(command: list[str], **environment: str) -> subprocess.Popen:
    fixed = dict(OMP_NUM_THREADS='1', CUDA_VISIBLE_DEVICES='-1', PYTHONPATH=str(ROOT))
    env = {**os.environ, **fixed, **environment}
    return subprocess.Popen(
        command, cwd=ROOT, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )


def finish(process: subprocess.Popen) -> str:
    printed, _ = process.communicate(timeout=300)
    assert process.returncode == 0, printed
    return printed


def weights(work_dir: Path) -> dict[str, Tensor]:
    return torch.load(work_dir / 'epoch_1.pth', weights_only=False)['state_dict']


@pytest.fixture(scope='module')
def two_processes(demo_data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """What `mim train ... --gpus 2 --launcher pytorch` writes and prints."""
    folder = tmp_path_factory.mktemp('two')
    work_dir = ('--work-dir', str(folder))
    arguments = ('--launcher', 'pytorch', '--port', str(free_port()), *work_dir, *OPTIONS)
    command = mim_command('train', Path(TWO), *arguments, gpus=2)
    return folder, run(command, DEMO_ROOT=f'{demo_data}/')


@pytest.mark.slow
def test_two_processes_train_as_one_and_evaluate(
    demo_data: Path, tmp_path: Path, two_processes: tuple[Path, str]
) -> None:
    folder, printed = two_processes
    assert 'coco/bbox_mAP' in printed
    command = mim_command('train', Path(SINGLE), '--work-dir', str(tmp_path), *OPTIONS, gpus=0)
    run(command, DEMO_ROOT=f'{demo_data}/')
    one, two = weights(tmp_path), weights(folder)
    assert one.keys() == two.keys()
    for name, weight in one.items():
        torch.testing.assert_close(two[name], weight, rtol=1e-3, atol=1e-5, msg=name)


@pytest.mark.slow
def test_two_machines_train_as_one_with_two_processes(
    demo_data: Path, tmp_path: Path, two_processes: tuple[Path, str]
) -> None:
    node = dict(NNODES='2', PORT=str(free_port()), DEMO_ROOT=f'{demo_data}/', PYTHON=sys.executable)
    work_dir = ('--work-dir', str(tmp_path))
    command = ['tools/dist_train.sh', TWO, '1', *work_dir, *OPTIONS]
    nodes = [start(command, NODE_RANK=rank, **node) for rank in ('0', '1')]
    printed = ''.join(map(finish, nodes))
    assert printed.count('coco/bbox_mAP:') == two_processes[1].count('coco/bbox_mAP:')
    expected = weights(two_processes[0])
    for name, weight in weights(tmp_path).items():
        assert torch.equal(weight, expected[name]), name


def test_slurm_gets_a_task_for_each_gpu(tmp_path: Path) -> None:
    srun = tmp_path / 'srun'
    srun.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n', encoding='utf-8')
    srun.chmod(0o755)
    path = f'{tmp_path}:{os.environ["PATH"]}'
    command = ['tools/slurm_train.sh', 'gpu', 'ghm', TWO, 'out dir', '--resume']
    printed = run(
        command, PATH=path, PYTHON=sys.executable, GPUS='16', SRUN_ARGS='--quotatype=auto -x n1'
    )
    arguments = printed.splitlines()
    python = arguments.index(sys.executable)
    assert arguments[:python] == [
        '-p', 'gpu', '--job-name=ghm', '--gres=gpu:8', '--ntasks=16', '--ntasks-per-node=8',
        '--cpus-per-task=5', '--kill-on-bad-exit=1', '--quotatype=auto', '-x', 'n1',
    ]  # fmt: skip
    script, *rest = arguments[python + 2 :]
    assert Path(script).name == 'train.py' and Path(script).exists()
    assert rest == [TWO, '--work-dir', 'out dir', '--launcher', 'slurm', '--resume']
    # What a shell leaves of a quoted word.
    command[4] = '~/out'
    assert f'{tmp_path}/out' in run(command, PATH=path, PYTHON=sys.executable, HOME=str(tmp_path))
    command[4] = ''
    process = start(command, PATH=path)
    assert 'WORK_DIR is empty' in process.communicate(timeout=60)[0] and process.returncode == 1


@pytest.mark.parametrize('tool', ['dist_train.sh', 'slurm_train.sh'])
def test_without_arguments_the_usage_is_printed(tool: str) -> None:
    process = start([f'tools/{tool}'])
    printed, _ = process.communicate(timeout=60)
    assert process.returncode == 2
    assert f'tools/{tool} ' in printed
