"""`ghm-mmdet compare`, with a stand-in for MIM: order, kills, sharing, failures, the report."""

from __future__ import annotations

import json
import math
import os
import random
import shutil
import signal
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from mmdet.registry import MODELS
from mmdet.utils import register_all_modules
from mmengine.config import Config
from mmengine.runner import Runner

from ghm_mmdet.cli import main
from ghm_mmdet.compare import compare as module
from ghm_mmdet.compare.arms import (
    ENDLESS,
    clipped,
    known_norm,
    logging_norms,
    norm_exceeded,
    recording,
)  # fmt: skip
from ghm_mmdet.compare.compare import Comparison
from ghm_mmdet.compare.training import Training, point
from ghm_mmdet.experiments import run as engine
from ghm_mmdet.experiments.configs import differences
from ghm_mmdet.experiments.experiment import RunSettings
from ghm_mmdet.preflight import Finding
from ghm_mmdet.visualization.observer import GradientNormObserver, Observed

from .training import ROOT

RETINANET = ROOT / 'tests/configs/retinanet_iterations.py'
ATSS = ROOT / 'configs/demo/detectors/atss_r18_fpn_demo.py'
FASTER_RCNN = ROOT / 'configs/demo/detectors/faster-rcnn_r18_fpn_demo.py'
ARMS = ('original', 'clipped', 'ghm')
ITERATIONS = 12


@dataclass
class Folder:
    """Comparisons over one folder, whose trainings are those of a stand-in for MIM."""

    root: Path
    plan: dict[str, Any] = field(default_factory=lambda: dict(iterations=ITERATIONS, every=4))

    def __post_init__(self) -> None:
        (self.root / 'mim').mkdir()
        (self.root / 'mim/__init__.py').touch()
        shutil.copy(ROOT / 'tests/stand_in_mim.py', self.root / 'mim/__main__.py')

    def comparison(
        self, *arms: str, seeds: int = 2, config: Path = RETINANET, options: tuple[str, ...] = (),
        added: dict[str, Path] | None = None,
    ) -> Comparison:  # fmt: skip
        os.environ['STAND_IN'] = json.dumps(dict(self.plan, notes=str(self.root / 'notes')))
        options = (f'train_cfg.max_iters={ITERATIONS}', *options)
        settings = RunSettings(self.root / 'runs', cfg_options=options)
        return Comparison(str(config), arms or ARMS, added or {}, seeds, settings)

    def results(self) -> dict[str, Any]:
        """Without what differs from one run to the next."""
        results = json.loads((self.root / 'runs/results.json').read_text(encoding='utf-8'))
        for run in results['runs']:
            del run['seconds_per_iteration']
        return results

    def notes(self) -> list[str]:
        path = self.root / 'notes'
        return path.read_text(encoding='utf-8').splitlines() if path.exists() else []


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Folder:
    monkeypatch.setenv('STAND_IN', '')
    monkeypatch.setenv('PYTHONPATH', f'{tmp_path}:{ROOT}')
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(module, 'draw_crops', lambda *_: {})
    return Folder(tmp_path)


def states(results: dict[str, Any]) -> dict[str, str]:
    return {run['folder']: run['state'] for run in results['runs']}


def test_a_whole_table_stands_after_each_round(folder: Folder) -> None:
    folder.plan['ap'] = dict(original=40, clipped=42, ghm=41)
    assert folder.comparison().run(jobs=1)
    begun = [f'begin {arm}-seed{seed}' for seed in (0, 1) for arm in ARMS]
    assert [note for note in folder.notes() if note.startswith('begin')] == begun
    results = folder.results()
    assert (results['metric'], results['baselines']) == ('AP', ['original', 'clipped'])
    assert {*states(results).values()} == {'done'}
    last = {run['folder']: run['curve'][-1] for run in results['runs']}
    assert last['clipped-seed1'] == dict(
        iteration=12, AP=43.0, AP50=86.0, AP75=None, classes=dict(king=21.5)
    )
    assert [point['iteration'] for point in results['runs'][0]['curve']] == [4, 8, 12]
    arms = {arm['name']: arm for arm in results['arms']}
    assert arms['original']['settings'] == {}
    assert arms['clipped']['settings'] == {'optim_wrapper.clip_grad.max_norm': 2}
    assert arms['ghm']['settings']['model.bbox_head.loss_cls.type'] == 'ghm_mmdet.GHMC'
    kept = Config.fromfile(folder.root / 'runs' / arms['ghm']['config'])
    assert kept.model.bbox_head.loss_bbox.type == 'ghm_mmdet.GHMR'
    assert kept.optim_wrapper.clip_grad.max_norm == 35
    assert folder.comparison().run(jobs=1)
    assert len(folder.notes()) == 12, 'nothing is trained again'


def write(comparison: Comparison) -> None:
    """The configs of the arms."""
    comparison.folder.mkdir(exist_ok=True)
    for arm in comparison.sources:
        with suppress(ValueError):  # The norm is not known.
            comparison.write(arm)


def in_background(run: Callable[[], object]) -> int:
    """The pid of a fork that runs it."""
    pid = os.fork()
    if pid == 0:
        os.setsid()
        out = os.open(os.devnull, os.O_WRONLY)
        os.dup2(out, 1)
        os.dup2(out, 2)
        try:
            os._exit(0 if run() else 1)
        finally:
            os._exit(2)
    return pid


def test_killed_at_ten_moments_the_report_is_that_of_an_uninterrupted_run(
    folder: Folder, tmp_path: Path
) -> None:
    """The process alone, or all that it started; what lives on is waited for."""
    rng = random.Random(0)
    folder.plan.update(ap=dict(original=40, clipped=42, ghm=41))
    assert folder.comparison().run(jobs=2)
    expected = folder.results()
    shutil.rmtree(folder.root / 'runs')
    (folder.root / 'notes').unlink()
    folder.plan['seconds'] = 0.02
    comparison = folder.comparison()
    for kill in range(10):
        pid = in_background(lambda: comparison.run(jobs=2))
        time.sleep(rng.uniform(0.3, 1.0))
        (os.kill if kill % 2 else os.killpg)(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    assert comparison.run(jobs=2)
    assert folder.results() == expected
    assert not [note for note in folder.notes() if note.startswith('meets')]
    ended = Counter(note for note in folder.notes() if note.startswith('end'))
    assert {*ended.values()} == {1}, 'none is trained twice; one may be killed at its very end'


def test_two_processes_share_the_trainings_even_where_one_is_killed(folder: Folder) -> None:
    folder.plan.update(seconds=0.05)
    comparison = folder.comparison()
    first, second = (in_background(lambda: comparison.run(jobs=1)) for _ in range(2))
    while len(folder.notes()) < 5:
        time.sleep(0.02)
    os.killpg(first, signal.SIGKILL)
    assert os.waitpid(second, 0)[1] == 0
    os.waitpid(first, 0)
    notes = Counter(note for note in folder.notes())
    assert not [note for note in notes if note.startswith('meets')]
    assert all(notes[f'end {name}'] == 1 for name in states(folder.results()))
    begun = sum(count for note, count in notes.items() if note.startswith('begin'))
    assert begun <= 7, 'the one that was killed was gone on with, the others trained once'
    assert {*states(folder.results()).values()} == {'done'}


def test_a_killed_process_leaves_its_lock_to_what_it_started(folder: Folder) -> None:
    folder.plan.update(seconds=0.1)
    comparison = folder.comparison('original', seeds=1)
    pid = in_background(lambda: comparison.run(jobs=1))
    while 'begin original-seed0' not in folder.notes():
        time.sleep(0.02)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    assert comparison.trainings[0].is_running()
    assert states(comparison.results({})) == {'original-seed0': 'running'}
    assert comparison.run(jobs=1)
    assert Counter(folder.notes()) == {'begin original-seed0': 1, 'end original-seed0': 1}
    assert not comparison.trainings[0].is_running()


def test_an_arm_that_diverges_is_given_up_and_named(
    folder: Folder, capfd: pytest.CaptureFixture
) -> None:
    folder.plan.update(nan=dict(ghm=5), seconds=0.4)
    assert not folder.comparison(seeds=1).run(jobs=3)
    runs = {run['arm']: run for run in folder.results()['runs']}
    assert [runs[arm]['state'] for arm in ARMS] == ['done', 'done', 'failed']
    assert runs['ghm']['why'] == 'the loss is NaN since iteration 5'
    assert runs['original']['why'] is None
    assert 'FAILED ghm-seed0: the loss is NaN since iteration 5' in capfd.readouterr().out
    assert 'end ghm-seed0' not in folder.notes(), 'it is not trained to its end'
    assert not folder.comparison(seeds=1).run(jobs=3)
    assert folder.notes().count('begin ghm-seed0') == 1, 'nor once more'


def test_a_loss_that_is_finite_again_is_no_divergence(tmp_path: Path) -> None:
    run = comparison_like(tmp_path)
    write_scalars(run.folder, [(i, float('nan') if i in (3, 4, 5) else 1.0) for i in range(9)])
    assert run.lost() is None
    write_scalars(run.folder, [(9, float('inf'))])
    assert run.lost() is None, 'it may come back'
    (run.folder / 'finished').touch()
    assert run.lost() == 'the loss is NaN since iteration 9'


def comparison_like(folder: Path) -> Training:
    return Training('ghm', RETINANET, RunSettings(folder), seed=0)


def write_scalars(folder: Path, losses: list[tuple[int, float]]) -> None:
    """As another start of the training logs them."""
    log = folder / f'{time.time_ns()}/vis_data/scalars.json'
    log.parent.mkdir(parents=True)
    lines = [json.dumps(dict(step=step, loss=loss, time=0.5)) for step, loss in losses]
    log.write_text('\n'.join(lines) + '\n', encoding='utf-8')


def test_a_full_disk_is_said_and_gone_on_from(
    folder: Folder, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
) -> None:
    error = 'OSError: [Errno 28] No space left on device'
    folder.plan.update(fails=dict(clipped=error))
    full = SimpleNamespace(disk_usage=lambda path: SimpleNamespace(free=0))
    monkeypatch.setattr(engine, 'shutil', full)
    assert not folder.comparison(seeds=1).run(jobs=1)
    runs = {run['arm']: run for run in folder.results()['runs']}
    assert [runs[arm]['state'] for arm in ARMS] == ['done', 'failed', 'done']
    where = folder.root / 'runs'
    assert runs['clipped']['why'] == (
        f'the disk of {where} is full: mim train ended with exit status 1, {error}, '
        f'see {where / "clipped-seed0.log"}'
    )
    assert runs['clipped']['curve'] == [], 'as far as it came'
    del folder.plan['fails']
    assert folder.comparison(seeds=1).run(jobs=1)
    assert {*states(folder.results()).values()} == {'done'}
    assert folder.notes().count('begin original-seed0') == 1


def test_a_report_that_can_not_be_written_leaves_that_of_before(
    folder: Folder, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
) -> None:
    comparison = folder.comparison('original', seeds=1)
    write(comparison)
    assert comparison.report({})
    before = folder.results()
    write_text = Path.write_text

    def on_a_full_disk(path: Path, text: str, **kwargs: str) -> int:
        write_text(path, text[:10], **kwargs)
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr(Path, 'write_text', on_a_full_disk)
    assert not comparison.run(jobs=1), 'it is no success'
    assert 'the report is not written: OSError: [Errno 28] No space' in capfd.readouterr().err
    assert folder.results() == before
    assert [*(folder.root / 'runs').glob('.*')] == [], 'and nothing half'


def test_other_settings_are_refused_before_anything_is_trained(folder: Folder) -> None:
    """The config was edited between two starts."""
    comparison = folder.comparison(seeds=1)
    write(comparison)
    for training in comparison.trainings:
        training.folder.mkdir()
        training.wanted.dump(training.folder / training.config.name)
    other = folder.comparison(seeds=1, options=('optim_wrapper.optimizer.lr=7',))
    with pytest.raises(ValueError, match=r'original-seed0 holds .*\(optim_wrapper.optimizer.lr: 0'):
        other.run(jobs=1)
    assert folder.notes() == []


#: What leads to no other result, as `--cfg-options` of a second start.
ELSEWHERE = {
    'data_root': '/local/7/demo',
    'train_dataloader.dataset.data_root': '/local/7/demo',
    'val_dataloader.dataset.data_root': '/local/7/demo',
    'val_evaluator.ann_file': '/local/7/demo/annotations/val.json',
    'train_dataloader.num_workers': 7,
    'train_dataloader.persistent_workers': True,
    'default_hooks.logger.interval': 7,
    'default_hooks.checkpoint.interval': 7,
    'vis_backends.0.type': 'TensorboardVisBackend',
    'visualizer.vis_backends.0.type': 'TensorboardVisBackend',
    'work_dir': '/local/7',
    'launcher': 'slurm',
    'log_level': 'DEBUG',
    'env_cfg.cudnn_benchmark': True,
}
ANOTHER = {
    'train_dataloader.dataset.ann_file': 'annotations/half.json',
    'val_evaluator.ann_file': '/local/7/other/half.json',
    'train_dataloader.batch_size': 7,
    'model.bbox_head.loss_cls.gamma': 3.0,
    'randomness.seed': 7,
    'load_from': '/local/7/other.pth',
    'train_cfg.max_iters': 7,
    'default_hooks.sampler_seed.type': 'X',
}


def test_places_and_workers_are_no_settings(tmp_path: Path) -> None:
    wanted = Config.fromfile(RETINANET)
    moved = wanted.copy()
    moved.merge_from_dict(ELSEWHERE)
    moved.dump(tmp_path / 'recorded.py')
    assert differences(Config.fromfile(tmp_path / 'recorded.py'), wanted) == []


@pytest.mark.parametrize('key', ANOTHER)
def test_what_leads_to_another_result_is_a_setting(key: str) -> None:
    wanted = Config.fromfile(RETINANET)
    other = wanted.copy()
    other.merge_from_dict({key: ANOTHER[key]})
    assert [found for found, *_ in differences(other, wanted)] == [key]


def test_weights_lie_anywhere_and_are_forgotten_by_what_resumes(tmp_path: Path) -> None:
    begun, resumed, elsewhere = (Config.fromfile(RETINANET) for _ in range(3))
    begun.load_from, elsewhere.load_from = '/home/a/coco.pth', '/home/b/coco.pth'
    resumed.resume = True
    assert differences(begun, elsewhere) == differences(resumed, begun) == []
    run = comparison_like(tmp_path)
    run.wanted.load_from = '/home/a/coco.pth'
    assert '--resume' not in run.train_command(), 'which would forget them'
    run.folder.mkdir()
    (run.folder / 'last_checkpoint').write_text('/x/iter_4.pth', encoding='utf-8')
    assert '--resume' in run.train_command()


def trained(folder: Path, *names: str, pointer: str = '') -> Training:
    """A training that left these checkpoints, and a pointer to one."""
    run = comparison_like(folder)
    run.folder.mkdir()
    for number, name in enumerate(names):
        path = run.folder / name
        path.touch()
        os.utime(path, (number, number))
    (run.folder / 'last_checkpoint').write_text(pointer, encoding='utf-8')
    return run


def goes_on_with(run: Training) -> str | None:
    """Which checkpoint the next start resumes from, after its folder was mended."""
    assert not run.mend()
    pointer = run.folder / 'last_checkpoint'
    return pointer.read_text(encoding='utf-8') if pointer.exists() else None


def test_what_was_not_evaluated_at_its_end_goes_on_with_the_checkpoint_before(
    tmp_path: Path,
) -> None:
    run = trained(tmp_path, 'iter_80.pth', 'iter_120.pth', 'iter_200.pth', pointer='iter_200.pth')
    assert goes_on_with(run) == str(run.folder / 'iter_120.pth')
    assert not (run.folder / 'iter_200.pth').exists()
    write_scalars(run.folder, [(200, 1.0)])
    (run.folder / 'iter_200.pth').touch()
    os.utime(run.folder / 'iter_200.pth', (0, 0))  # before the log
    (run.folder / 'last_checkpoint').write_text('iter_200.pth', encoding='utf-8')
    assert run.mend() and run.is_trained()


@pytest.mark.parametrize(
    ('pointer', 'resumed'), [('/gone/iter_80.pth', 'iter_80.pth'), ('', None), ('iter_7.pth', None)]
)
def test_a_pointer_of_a_killed_writer_or_a_moved_folder(
    pointer: str, resumed: str | None, tmp_path: Path
) -> None:
    run = trained(tmp_path, 'iter_80.pth', pointer=pointer)
    assert goes_on_with(run) == (resumed and str(run.folder / resumed))


def test_the_norm_to_clip_at_is_that_of_the_first_training(folder: Folder) -> None:
    """The stand-in's norms are 1000 / iteration: nine of ten exceed the second, 1000 / 11."""
    options = ('optim_wrapper.clip_grad.max_norm=1000',)
    comparison = folder.comparison(config=ATSS, options=options)
    assert 'clipped at a norm that original shows' in comparison.plan(commands=False)
    assert comparison.run(jobs=3)
    begun = [note for note in folder.notes() if 'seed0' in note]
    assert begun.index('begin clipped-seed0') > begun.index('end original-seed0')
    assert begun.index('begin clipped-seed0') > begun.index('begin ghm-seed0')
    clipped = folder.results()['arms'][1]
    assert clipped['what'] == 'its losses, the gradient clipped at norm 90'
    assert clipped['settings'] == {'optim_wrapper.clip_grad.max_norm': 90}
    another = folder.comparison(config=ATSS, options=options)
    assert another.results({})['arms'][1] == clipped, 'as another process says'


@pytest.mark.parametrize(('norms', 'expected'), [([], None), ([0.34], 0.3), ([*range(1, 21)], 3)])
def test_nine_of_ten_norms_exceed(norms: list[float], expected: float | None) -> None:
    assert norm_exceeded(norms[::-1]) == expected


def test_an_arm_that_needs_what_is_not_there_is_refused(folder: Folder) -> None:
    with pytest.raises(ValueError, match='arms must have original, which shows the norm'):
        folder.comparison('clipped', 'ghm', config=ATSS)
    with pytest.raises(ValueError, match='arms must have original or clipped, to compare with'):
        folder.comparison('ghm')
    for name in ('ghm', 'a b', ''):
        with pytest.raises(ValueError, match=f'must have a name of its own, .*, got {name!r}'):
            folder.comparison(added={name: RETINANET})
    often = ('optim_wrapper.clip_grad.max_norm=0.1',)
    with pytest.raises(ValueError, match=r'clips the gradient at norm 0\.1 already, not at 2'):
        folder.comparison(options=often).run(jobs=1)


def test_own_arms_are_trained_with_the_options_and_on_the_same_images(
    folder: Folder, tmp_path: Path
) -> None:
    mine = tmp_path / 'mine.py'
    mine.write_text(
        f"_base_ = '{RETINANET}'\nmodel = dict(bbox_head=dict(stacked_convs=1))\n", 'utf-8'
    )
    comparison = folder.comparison('original', added={'mine': mine}, seeds=1)
    write(comparison)
    config = Config.fromfile(tmp_path / 'runs/mine.py')
    assert (config.model.bbox_head.stacked_convs, config.train_cfg.max_iters) == (1, ITERATIONS)
    [_, arm] = comparison.results({})['arms']
    assert arm['settings'] == {'model.bbox_head.stacked_convs': 1}
    mine.write_text(f"_base_ = '{RETINANET}'\nval_evaluator = dict(ann_file='x.json')\n", 'utf-8')
    with pytest.raises(ValueError, match='mine must be evaluated on the same images: val_'):
        folder.comparison('original', added={'mine': mine})


def test_an_option_reaches_the_losses_before_they_are_harmonized(folder: Folder) -> None:
    """Beside the command it would change GHM-C's weight to that of focal loss."""
    comparison = folder.comparison(options=('model.bbox_head.loss_cls.loss_weight=2.0',))
    write(comparison)
    config = Config.fromfile(folder.root / 'runs/ghm.py')
    assert config.model.bbox_head.loss_cls.loss_weight == 0.5
    [ghm, *_] = [training for training in comparison.trainings if training.name == 'ghm']
    assert ghm.wanted.model.bbox_head.loss_cls.loss_weight == 0.5


def test_what_is_recorded_changes_no_training(folder: Folder) -> None:
    """AP by class; the norm of the gradient, where the config does not clip it; the hook."""
    comparison = folder.comparison(config=ATSS, seeds=1)
    write(comparison)
    original, clipped, ghm = comparison.trainings
    given = Config.fromfile(ATSS)
    assert given.randomness.seed == 0
    found = [key for key, *_ in differences(given, original.wanted)]
    assert sorted(found) == ['gpus', 'train_cfg.max_iters', 'val_evaluator.classwise']
    hook = original.wanted.default_hooks.density
    assert hook == dict(type='ghm_mmdet.GradientDensityHook', iters=5)
    assert original.options == ghm.options == clipped.options
    unclipped = folder.comparison(config=ATSS, options=('optim_wrapper.clip_grad=None',))
    write(unclipped)
    assert unclipped.trainings[0].wanted.optim_wrapper.clip_grad == dict(max_norm=ENDLESS)


def test_a_gradient_is_never_as_long_as_the_norm_that_only_logs_it() -> None:
    from mmengine.optim import OptimWrapper

    weights = []
    for clip_grad in (None, dict(max_norm=ENDLESS)):
        model = torch.nn.Linear(3, 2, bias=False)
        torch.nn.init.constant_(model.weight, 0.3)
        wrapper = OptimWrapper(torch.optim.SGD(model.parameters(), lr=0.1), clip_grad=clip_grad)
        wrapper.update_params(model(torch.tensor([[1e9, -2.0, 1e-9]])).square().sum())
        weights.append(model.weight)
    assert torch.equal(*weights)


def test_two_stages_are_observed_where_sigmoids_are() -> None:
    config = Config.fromfile(FASTER_RCNN)
    options = dict(option.split('=', 1) for option in recording(config))
    places = {key: options[f'default_hooks.density.{key}'] for key in ('loss_cls', 'loss_bbox')}
    register_all_modules()
    GradientNormObserver(MODELS.build(config.model), Observed(**places)).close()
    config.custom_hooks = [dict(type='NumClassCheckHook'), dict(type='GradientDensityHook')]
    assert 'density' not in ' '.join(recording(config)), 'it refuses another one'


def test_what_is_recorded_of_a_config_that_is_like_no_other() -> None:
    config = Config.fromfile(FASTER_RCNN)
    config.val_evaluator = [dict(type='CocoMetric'), dict(type='VOCMetric')]
    config.model.rpn_head = None
    config.custom_hooks = [dict(type='Hook')]
    config.optim_wrapper = dict(type='DeepSpeedOptimWrapper', optimizer=dict(type='SGD'))
    options = ' '.join(recording(config))
    assert 'classwise' not in options and 'rpn_head' not in options and 'density' in options
    assert logging_norms(config) == (), 'it takes no clip_grad'
    with pytest.raises(ValueError, match='or the optimizer takes none: leave the arm clipped out'):
        clipped(config, 2.0)
    config.model.bbox_head = [dict(type='RetinaHead')]
    assert known_norm(config) is None


def test_seeds_are_paired(folder: Folder, demo_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The arms of a seed begin with the same weights and see the same images."""
    monkeypatch.setenv('DEMO_ROOT', f'{demo_data}/')
    found: dict[int | None, list[tuple]] = {}
    comparison = folder.comparison(seeds=2)
    write(comparison)
    for training in comparison.trainings[:4]:
        config = training.wanted
        config.work_dir = str(training.folder)
        runner = Runner.from_cfg(config)
        runner.train_loop  # noqa: B018
        runner.model.init_weights()
        batch = next(iter(runner.train_dataloader))
        names = [sample.img_path for sample in batch['data_samples']]
        flips = [sample.flip for sample in batch['data_samples']]
        weight = runner.model.bbox_head.retina_cls.weight.sum().item()
        found.setdefault(training.seed, []).append((names, flips, weight))
    assert found[0][0] == found[0][1] == found[0][2] != found[1][0]


@pytest.mark.parametrize(
    ('metrics', 'expected'),
    [
        ({}, dict(AP=0.0, AP50=0.0, AP75=0.0, classes={})),
        (
            {'bbox_mAP': 0.125, 'bbox_mAP_50': -1.0, 'bbox_mAP_75': 0.1, 'a b_precision': math.nan},
            dict(AP=12.5, AP50=None, AP75=10.0, classes={'a b': None}),
        ),
        ({'mAP': 0.5, 'AP50': 0.7}, dict(AP=50.0, AP50=70.0, AP75=None, classes={})),
    ],
)
def test_a_validation_in_percent(metrics: dict[str, float], expected: dict[str, object]) -> None:
    assert point(7, metrics) == dict(iteration=7, **expected)


def test_a_validation_that_detects_nothing_is_one(tmp_path: Path) -> None:
    """Its record has no metrics; that of a hook's scalars is no validation."""
    run = comparison_like(tmp_path)
    write_scalars(run.folder, [(4, 1.0)])
    [log] = run.folder.glob('*/vis_data/scalars.json')
    lines = [dict(time=0.1, data_time=0.1, step=4), {'gradient_density/cls_easy': 0.9, 'step': 6}]
    log.write_text('\n'.join(map(json.dumps, lines)), encoding='utf-8')
    assert run.curve() == [dict(iteration=4, AP=0.0, AP50=0.0, AP75=0.0, classes={})]


def test_a_training_without_validation_is_no_result(folder: Folder) -> None:
    folder.plan['every'] = 100
    assert not folder.comparison('original', seeds=1).run(jobs=1)
    [run] = folder.results()['runs']
    assert (run['state'], run['why']) == ('failed', 'it has no validation')


def test_a_dry_run_writes_nothing(folder: Folder, capsys: pytest.CaptureFixture) -> None:
    where = folder.root / 'nowhere'
    command = ['compare', str(RETINANET), '--dry-run', '--seeds', '1', '--work-dir', str(where)]
    slurm = ['--gpus', '8', '--launcher', 'slurm', '--partition', 'p', '--gpus-per-node', '8']
    main([*command, *slurm, '--arms', 'original', 'ghm'])
    lines = capsys.readouterr().out.splitlines()
    assert lines[:3] == [
        'original: the config as it is', 'ghm: harmonized, preset tempered',
        f'trainings: 2, in {where}',
    ]  # fmt: skip
    for line, arm in zip(lines[3:], ('original', 'ghm')):
        assert (
            f' {where}/{arm}.py --gpus 8 --launcher slurm --partition p --gpus-per-node 8 ' in line
        )
        assert f'--work-dir {where}/{arm}-seed0 --cfg-options randomness.seed=0 ' in line
    assert not where.exists()


def test_an_error_of_the_doctor_stops_before_the_first_training(
    folder: Folder, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    doubt, error = Finding(False, 'few images', 'more'), Finding(True, 'no images', 'find them')
    monkeypatch.setattr(module, 'check_config', lambda config, gpus: findings)
    command = ['compare', str(RETINANET), '--seeds', '1', '--gpus', '0', '--arms', 'original']
    command += ['--work-dir', str(folder.root / 'runs')]
    folder.comparison('original')
    findings = [error, doubt]
    with pytest.raises(SystemExit) as stop:
        main(command)
    assert stop.value.code == 1
    said = capsys.readouterr().err
    assert 'ERROR: no images: find them\n' in said and 'doubt: few images: more\n' in said
    assert not (folder.root / 'runs').exists()
    findings = [doubt]
    main(command)
    assert states(folder.results()) == {'original-seed0': 'done'}
