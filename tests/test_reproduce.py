"""tools/reproduce.py: the plan, what is run and what is not, the report, and a killed rehearsal."""

from __future__ import annotations

import json
import os
import re
import runpy
import signal
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import yaml
from mmengine.config import Config

from ghm_mmdet.experiments import run as engine
from ghm_mmdet.experiments.configs import differences
from ghm_mmdet.experiments.experiment import RunSettings
from ghm_mmdet.experiments.logs import METRICS
from ghm_mmdet.reproduce import GPUS
from ghm_mmdet.reproduce.paper_runs import paper_run, paper_runs, plan, run_of
from ghm_mmdet.reproduce.report import TEST_DEV_SCORES, report, status
from ghm_mmdet.reproduce.tables import TABLES, Row, Table, tables
from ghm_mmdet.stacks import mmdet_distribution

from .training import SMALL

ROOT = Path(__file__).parent.parent
GHM_C = 'retinanet_r50_fpn_ghmc_8xb2-14e_coco'
ASL1 = 'retinanet_r50_fpn_ghmc-asl1_8xb2-14e_coco'
GHM_R = 'retinanet_r50_fpn_ghmc-ghmr_8xb2-14e_coco'
FIGURES = {'coco/bbox_mAP': 0.4, 'coco/bbox_mAP_50': 0.5, 'coco/bbox_mAP_60': 0.45}


def run_missing(tables: list[Table], settings: RunSettings) -> dict[str, str]:
    return engine.run_missing(paper_runs(tables, settings))


def commands(text: str) -> list[str]:
    return [line for line in text.splitlines() if line and not line.startswith('#')]


def test_every_config_is_a_row_of_a_table() -> None:
    rows = {row.run for table in TABLES for row in table.rows}
    configs = {path.stem for path in ROOT.glob('configs/ghm/*.py')}
    assert rows <= configs
    others = {name for name in configs - rows if not name.endswith('_test-dev')}
    assert others >= {'retinanet_r50_fpn_ghmc-ghmr-noprior_8xb2-14e_coco'}


#: As printed in the paper, a line for each of its rows that a config here repeats.
PAPER = {
    1: """
        33.4 51.7 35.6 18.6 36.8 45.7
        34.6 53.9 36.5 19.5 37.1 46.1
        35.2 54.4 36.9 19.4 38.4 46.3
        35.8 55.5 38.1 19.6 39.6 46.7
        35.4 54.8 36.3 19.5 38.5 46.3
    """,
    2: """
        28.6 0.566
        35.9 13.675
        35.8 0.824
    """,
    3: """
        39.1 59.1 42.3 21.8 42.7 50.2
        40.8 61.1 44.1 24.1 44.2 51.2
        39.9 60.8 42.5 20.3 43.6 54.1
        41.6 62.8 44.2 22.3 45.1 55.3
    """,
    4: """
        28.6 43.3 30.7 11.4 30.7 40.7
        31.1 47.2 33.2 - - -
        35.6 55.6 38.2 19.1 39.2 46.3
        35.8 55.5 38.1 19.6 39.6 46.7
    """,
    5: """
        35.8 55.5 38.1 19.6 39.6 46.7
        35.7 55.0 38.1 19.7 39.7 45.9
        36.4 54.6 38.7 20.5 40.6 47.8
    """,
    6: """
        35.8 55.5 51.2 43.4 31.4 11.9
        35.7 55.0 51.1 43.5 31.5 12.1
        36.4 54.6 51.4 44.0 32.2 13.1
    """,
    7: """
        36.4 58.7 38.8 21.1 39.6 47.0
        37.4 58.9 39.9 21.8 40.8 48.8
    """,
}
COLUMNS = dict.fromkeys(PAPER, 'AP AP50 AP75 APs APm APl')
COLUMNS.update({2: 'AP s/iteration', 6: 'AP AP50 AP60 AP70 AP80 AP90'})


@pytest.mark.parametrize('table', TABLES, ids=lambda table: table.number)
def test_figures_are_those_of_the_paper(table: Table) -> None:
    expected = [line.split() for line in PAPER[table.number].strip().splitlines()]
    found = [[str(x).replace('None', '-') for x in row.paper] for row in table.rows]
    assert found == expected
    assert table.columns == tuple(COLUMNS[table.number].split())
    assert table.on_test_dev == (table.number == 3)


def test_rows_have_a_number_for_each_column() -> None:
    for table in TABLES:
        for row in table.rows:
            assert len(row.paper) == len(table.columns)
            assert all(c in METRICS or c == 's/iteration' for c in table.columns)


def test_metafile_has_the_papers_numbers() -> None:
    """One fact in two files: `box AP (paper)` of the metafile and the tables."""
    models = yaml.safe_load((ROOT / 'configs/ghm/metafile.yml').read_text(encoding='utf-8'))[
        'Models'
    ]
    names = [model['Name'] for model in models]
    trained = {p.stem for p in ROOT.glob('configs/ghm/*.py') if not p.stem.endswith('_test-dev')}
    assert sorted(names) == sorted(trained)
    papers: dict[str, dict[str, float]] = {}
    for table in TABLES:
        dataset = 'COCO test-dev' if table.on_test_dev else 'COCO'
        for row in table.rows:
            papers.setdefault(row.run, {})[dataset] = row.paper[table.columns.index('AP')]
    for model in models:
        assert model['Config'] == f'configs/ghm/{model["Name"]}.py'
        assert (ROOT / model['Config']).exists()
        found = {
            result['Dataset']: result['Metrics']['box AP (paper)']
            for result in model.get('Results', [])
            if 'box AP (paper)' in result['Metrics']
        }
        assert found == papers.get(model['Name'], {}), model['Name']


def test_plan_names_every_run_once() -> None:
    lines = commands(plan(tables(), RunSettings(gpus=GPUS)))
    mim = mmdet_distribution()
    trainings = [line for line in lines if line.startswith('mim train')]
    runs = {row.run for table in TABLES for row in table.rows}
    assert len(trainings) == len(runs)
    for run in runs:
        config = f'configs/ghm/{run}.py'
        trained = [line for line in trainings if config in line]
        tested = [line for line in lines if line.startswith(f'mim test {mim}') and config in line]
        assert len(tested) == 1
        assert f'--work-dir work_dirs/{run}/test/epoch_14' in tested[0]
        assert trained == [
            f'mim train {mim} {config} --gpus 8 --launcher pytorch --resume '
            f'--work-dir work_dirs/{run}'
        ]
        assert f'--checkpoint work_dirs/{run}/epoch_14.pth' in tested[0]
    submissions = [line for line in lines if '_test-dev.py' in line]
    assert len(submissions) == 2


def test_data_root_and_options_reach_every_command() -> None:
    settings = RunSettings(Path('w'), '/some data', 0, ('train_cfg.max_epochs=3', 'a.b=(1,2)'))
    lines = commands(plan(tables(), settings))
    options = "--cfg-options auto_scale_lr.enable=True gpus=1 train_cfg.max_epochs=3 'a.b=(1,2)'"
    for line in lines:
        assert line.startswith("COCO_ROOT='/some data/' CUDA_VISIBLE_DEVICES=-1 mim ")
        assert options in line
        assert '--gpus 0' in line
        assert '--launcher' not in line
        assert 'epoch_14' not in line
    config = paper_run(GHM_C, settings).wanted
    assert config.train_dataloader.dataset.data_root == '/some data/'
    assert config.val_evaluator.ann_file == '/some data/annotations/instances_val2017.json'
    assert config.train_cfg.max_epochs == 3
    assert 'COCO_ROOT' not in os.environ


@pytest.mark.parametrize('gpus', [0, 1, 2, 8])
def test_several_gpus_have_a_process_each(gpus: int) -> None:
    for line in commands(plan(tables([7]), RunSettings(gpus=gpus))):
        assert f' --gpus {gpus} ' in line
        assert ('--launcher pytorch' in line) == (gpus > 1)
        assert ('CUDA_VISIBLE_DEVICES=-1' in line) == (gpus == 0)
        assert ('auto_scale_lr.enable=True' in line) == (gpus != 8)


def test_plan_can_be_piped_into_a_shell(
    coco_root: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
) -> None:
    """Standard output has commands and comments alone."""
    command = f'reproduce.py plan --table 7 --data-root {coco_root}'
    monkeypatch.setattr(sys, 'argv', command.split())
    runpy.run_path(str(ROOT / 'tools/reproduce.py'), run_name='__main__')
    printed = commands(capfd.readouterr().out)
    assert len(printed) == 4
    assert all(line.startswith('COCO_ROOT=') for line in printed)


def test_wrong_arguments_are_named() -> None:
    with pytest.raises(ValueError, match='table must be one of 1, 2, 3, 4, 5, 6, 7, got 8'):
        tables([5, 8])
    with pytest.raises(ValueError, match="cfg_options must be key=value, got 'x'"):
        RunSettings(cfg_options=('x',))
    with pytest.raises(ValueError, match='gpus must be >= 0, got -1'):
        RunSettings(gpus=-1)


class FakeMIM:
    """Does what MIM does to a work folder, and fails where it is told to."""

    def __init__(self, settings: RunSettings) -> None:
        self.settings = settings
        self.failing: tuple[str, ...] = ()
        self.by_seed: dict[int, float] = {}
        self.configs: dict[str, Path] = {}
        self.calls: list[tuple[str, str]] = []

    def __call__(self, command: list[str], *_: object) -> None:
        verb, name = command[command.index('mim') + 1], Path(command[5]).stem
        self.calls.append((verb, name))
        if name in self.failing and verb == 'train':
            raise subprocess.CalledProcessError(1, command)
        folder = Path(command[command.index('--work-dir') + 1])
        if name.endswith('_test-dev'):
            folder.parent.mkdir(exist_ok=True)
            folder.with_name(f'{folder.name}.bbox.json').write_text('[]', encoding='utf-8')
            return
        (folder / '1').mkdir(parents=True, exist_ok=True)
        seed = re.search(r'randomness.seed=(\d+)', ' '.join(command))
        row = Row('', name, (), self.configs.get(name))
        run = run_of(row, self.settings, int(seed[1]) if seed else None)
        run.wanted.dump(folder / f'{name}.py')
        if verb == 'train':
            (folder / 'last_checkpoint').write_text('/elsewhere/epoch_14.pth', encoding='utf-8')
        else:
            ap = self.by_seed.get(run.seed, FIGURES['coco/bbox_mAP'])
            figures = json.dumps({**FIGURES, 'coco/bbox_mAP': ap})
            (folder / '1/1.json').write_text(figures, encoding='utf-8')


@pytest.fixture
def settings(coco_root: Path, tmp_path: Path) -> RunSettings:
    return RunSettings(tmp_path, str(coco_root), GPUS)


@pytest.fixture
def fake(settings: RunSettings, monkeypatch: pytest.MonkeyPatch) -> FakeMIM:
    """What is started instead of `mim`."""
    fake = FakeMIM(settings)
    monkeypatch.setattr(engine, 'run_command', fake)
    return fake


def test_goes_on_after_a_failure_and_runs_what_is_missing(
    settings: RunSettings, fake: FakeMIM
) -> None:
    fake.failing = (ASL1,)
    failures = run_missing(tables([5]), settings)
    log = settings.work_dir / f'{ASL1}.log'
    assert failures == {ASL1: f'mim train ended with exit status 1, see {log}'}
    assert fake.calls == [
        ('train', GHM_C), ('test', GHM_C), ('train', ASL1), ('train', GHM_R), ('test', GHM_R),
    ]  # fmt: skip
    fake.failing, fake.calls = (), []
    assert run_missing(tables([5, 6]), settings) == {}
    assert fake.calls == [('train', ASL1), ('test', ASL1)]


def test_a_finished_training_is_only_tested(settings: RunSettings, fake: FakeMIM) -> None:
    run = paper_run(GHM_C, settings)
    fake(run.train_command())
    fake.calls.clear()
    run_missing(tables([2]), settings)
    assert ('train', GHM_C) not in fake.calls
    assert ('test', GHM_C) in fake.calls


def test_test_dev_is_run_where_its_images_are_listed(settings: RunSettings, fake: FakeMIM) -> None:
    run_missing(tables([3]), settings)
    submitted = [name for verb, name in fake.calls if name.endswith('_test-dev')]
    assert submitted == [
        'retinanet_r101_fpn_ghmc-ghmr_8xb2-14e_coco_test-dev',
        'retinanet_x101-32x8d_fpn_ghmc-ghmr_8xb2-14e_coco_test-dev',
    ]
    fake.calls.clear()
    run_missing(tables([3]), settings)
    assert fake.calls == [], 'the detections are there'
    run = paper_run(submitted[0].replace('_test-dev', ''), settings)
    run.detections.write_text('[{"image_id": 1, "bbox": [1, 2', encoding='utf-8')
    run_missing(tables([3]), settings)
    assert fake.calls == [('test', submitted[0])], 'the writer of the detections was killed'


def test_other_settings_in_a_folder_are_not_gone_on_with(
    settings: RunSettings, fake: FakeMIM
) -> None:
    """The rehearsal's checkpoint must not become the beginning of the real run."""
    run_missing(tables([5]), settings)
    changed = RunSettings(settings.work_dir, settings.data_root, 8, ('train_cfg.max_epochs=2',))
    fake.settings, fake.calls = changed, []
    failures = run_missing(tables([5]), changed)
    assert len(failures) == 3
    assert 'train_cfg.max_epochs: 14, now 2' in failures[GHM_C]
    assert 'choose another --work-dir' in failures[GHM_C]
    assert fake.calls == []


def test_another_number_of_gpus_is_another_batch(settings: RunSettings, fake: FakeMIM) -> None:
    fake.settings = replace(settings, gpus=2)
    assert engine.run_missing([paper_run(GHM_C, fake.settings)]) == {}
    other = paper_run(GHM_C, replace(settings, gpus=4))
    assert 'gpus: 2, now 4' in engine.run_missing([other])[GHM_C]


def test_how_a_run_was_started_is_no_setting(settings: RunSettings, fake: FakeMIM) -> None:
    """MIM records it beside what was trained."""
    run = paper_run(GHM_C, settings)
    recorded = run.wanted.copy()
    started = dict(work_dir='x', launcher='pytorch', resume=True, load_from='y.pth')
    recorded.merge_from_dict(started)
    assert differences(recorded, run.wanted) == []
    recorded.merge_from_dict({'randomness.seed': 1})
    assert differences(recorded, run.wanted) == [('randomness.seed', 1, None)]


def test_missing_data_is_named(tmp_path: Path) -> None:
    failure, *_ = run_missing(tables([5]), RunSettings(tmp_path, 'nowhere')).values()
    assert 'nowhere/annotations/instances_train2017.json is not there' in failure


def test_report_without_runs_is_the_paper(tmp_path: Path) -> None:
    text = report(tables([2, 4]), tmp_path)
    assert 'Nothing was measured.' in text
    assert '| standard CE | 28.6 |  |  | 0.566 |  |  |' in text
    ohem = '| OHEM | 31.1 |  |  | 47.2 |  |  | 33.2 |  |  |  |  |  |  |  |  |  |  |  |'
    assert ohem in text.splitlines()


def test_report_shows_paper_measured_difference(settings: RunSettings, fake: FakeMIM) -> None:
    run_missing(tables([5]), settings)
    text = report(tables([5, 6]), settings.work_dir)
    assert '**Not COCO**: trained on 40 images and evaluated on 8' in text
    assert 'Settings that are not' not in text
    rows = [line for line in text.splitlines() if line.startswith('| GHM-R |')]
    assert rows[0].startswith('| GHM-R | 36.4 | 40.0 | +3.6 | 54.6 | 50.0 | -4.6 | 38.7 |  |  |')
    assert rows[1].startswith(
        '| GHM-R | 36.4 | 40.0 | +3.6 | 54.6 | 50.0 | -4.6 | 51.4 | 45.0 | -6'
    )


def test_report_names_changed_settings(settings: RunSettings, fake: FakeMIM) -> None:
    options = ('optim_wrapper.optimizer.lr=1.0',)
    changed = fake.settings = replace(settings, gpus=1, cfg_options=options)
    run_missing(tables([7]), changed)
    text = report(tables([7]), changed.work_dir)
    assert '- `optim_wrapper.optimizer.lr=1.0`, not `0.01`\n' in text
    assert '- `auto_scale_lr.enable=True`, not `False`\n' in text


def test_report_takes_coco_for_coco(fake: FakeMIM, tmp_path: Path) -> None:
    root = tmp_path / 'coco'
    (root / 'annotations').mkdir(parents=True)
    for split, count in (('train', 118287), ('val', 5000)):
        images = [dict(id=i, file_name=f'{i}.jpg') for i in range(count)]
        (root / f'annotations/instances_{split}2017.json').write_text(
            json.dumps(dict(images=images)), encoding='utf-8'
        )
    real = fake.settings = RunSettings(tmp_path / 'work', str(root), GPUS)
    run_missing(tables([5]), real)
    text = report(tables([5]), real.work_dir)
    assert 'Data: COCO' in text
    assert 'Not COCO' not in text
    (root / 'annotations/instances_val2017.json').unlink()
    assert 'Whether this is COCO can not be told' in report(tables([5]), real.work_dir)


def test_report_of_test_dev_takes_the_servers_figures(settings: RunSettings, fake: FakeMIM) -> None:
    run_missing(tables([3]), settings)
    folder = settings.work_dir / 'retinanet_r101_fpn_ghmc-ghmr_8xb2-14e_coco'
    (folder / TEST_DEV_SCORES).write_text(json.dumps(dict(AP=40.1, AP50=60.0)), encoding='utf-8')
    text = report(tables([3]), settings.work_dir)
    assert '| GHM-C + GHM-R, ResNet-101 | 39.9 | 40.1 | +0.2 | 60.8 | 60.0 | -0.8 |' in text
    assert '| GHM-C + GHM-R, ResNeXt-101 | 41.6 |  |  |' in text
    assert '- GHM-C + GHM-R, ResNeXt-101: AP 40.0 on val2017, not comparable' in text


def test_report_gives_times_of_gpus_alone(settings: RunSettings, fake: FakeMIM) -> None:
    run_missing(tables([2]), settings)
    for row in tables([2])[0].rows:
        folder = settings.work_dir / row.run / '1'
        (folder / 'vis_data').mkdir()
        records = [json.dumps(dict(loss=1.0, time=t, step=i)) for i, t in enumerate((0.2, 0.3))]
        (folder / 'vis_data/scalars.json').write_text('\n'.join(records), encoding='utf-8')
    assert '0.566 |  |  |' in report(tables([2]), settings.work_dir)
    (folder / '1.log').write_text(
        '    CUDA available: True\n    GPU 0,1: NVIDIA X\n', encoding='utf-8'
    )
    text = report(tables([2]), settings.work_dir)
    assert '| GHM-C RU | 35.8 | 40.0 | +4.2 | 0.824 | 0.250 | -0.574 |' in text
    assert '- GHM-C RU: time on NVIDIA X; the paper: GTX 1080 Ti' in text


def test_time_and_gpu_are_of_the_same_part(settings: RunSettings) -> None:
    """A training that went on elsewhere."""
    folder = settings.work_dir / GHM_C
    parts = (('1', 'GPU 0: NVIDIA A', 0.3), ('2', 'GPU 0: NVIDIA B', 0.9), ('3', 'no GPU', 0.1))
    for stamp, line, seconds in parts:
        (folder / stamp / 'vis_data').mkdir(parents=True)
        (folder / stamp / f'{stamp}.log').write_text(f'    {line}\n', encoding='utf-8')
        record = json.dumps(dict(loss=1.0, time=seconds, step=1))
        (folder / stamp / 'vis_data/scalars.json').write_text(record, encoding='utf-8')
        text = report(tables([2]), settings.work_dir)
        if 'NVIDIA' in line:
            assert f'| 0.824 | {seconds:.3f} |' in text
            assert f'time on {line[7:]}; ' in text
            assert text.count('time on') == 1
        else:
            assert 'time on' not in text and '0.824 |  |' in text


def test_seeds_have_a_mean_and_a_spread(settings: RunSettings, fake: FakeMIM) -> None:
    fake.by_seed = {0: 0.38, 1: 0.40, 2: 0.45}
    runs = paper_runs(tables([5]), settings, seeds=3)
    assert [run.run for run in runs[:4]] == [
        f'{GHM_C}-seed0', f'{ASL1}-seed0', f'{GHM_R}-seed0', f'{GHM_C}-seed1'
    ]  # fmt: skip
    assert engine.run_missing(runs[:-1]) == {}
    text = report(tables([5]), settings.work_dir, seeds=3)
    assert '| SL1 | 35.8 | 41.0 ± 3.6 | +5.2 | 55.5 |' in text
    assert '| GHM-R | 36.4 | 39.0 ± 1.4 | +2.6 |' in text, 'of the seeds that are there'
    assert '| SL1 | 35.8 |  |  |' in report(tables([5]), settings.work_dir), (
        'the run without a seed'
    )


def test_rows_of_ones_own(settings: RunSettings, fake: FakeMIM, tmp_path: Path) -> None:
    mine = tmp_path / 'mine.py'
    mine.write_text(f"_base_ = '{ROOT}/configs/ghm/{GHM_C}.py'\n", encoding='utf-8')
    chosen = tables([2, 5], {'Mine': mine})
    fake.configs[mine.stem] = mine
    runs = [run for run in paper_runs(chosen, settings) if run.name == 'mine']
    assert engine.run_missing(runs) == {}
    assert fake.calls == [('train', 'mine'), ('test', 'mine')]
    text = report(chosen, settings.work_dir)
    assert '| Mine |  | 40.0 |  |  | 50.0 |' in text and '| Mine |  | 40.0 |  |  |  |  |' in text
    with pytest.raises(ValueError, match=f'must have a name of its own, got {GHM_C}.py'):
        tables([5], {'Mine': tmp_path / f'{GHM_C}.py'})
    with pytest.raises(ValueError, match=r'must have a name of its own, got mine\.py'):
        tables([5], {'Mine': mine, 'Other': tmp_path / 'other/mine.py'})


def test_status_says_what_is_there_and_what_it_takes(settings: RunSettings, fake: FakeMIM) -> None:
    runs = paper_runs(tables([5]), settings)
    assert '0 of 3 done\n' in status(runs)
    assert engine.run_missing(runs[:1]) == {}
    line = 'Epoch(train)  [7][100/100]  eta: 2:00:00  time: 10.2857  loss: 1\n'
    runs[1].log.write_text(line, encoding='utf-8')
    with runs[1].lock:
        text = status(runs)
    assert f'| {GHM_C} | done |\n| {ASL1} | running, 50% |\n| {GHM_R} | missing |' in text
    assert '1 of 3 done, about 6 h 0 min of training left\n' in text, '2 of ASL1, 4 as the mean'
    assert "3 trainings of 23.5 h on 8 GPUs, at the paper's 0.824 s an iteration" in text
    assert f'| {ASL1} | missing, 50% |' in status(runs)


@pytest.mark.parametrize('name', sorted({row.run for table in TABLES for row in table.rows}))
def test_what_the_papers_figures_are_drawn_from_is_recorded(name: str) -> None:
    config = Config.fromfile(ROOT / f'configs/ghm/{name}.py')
    hook = config.default_hooks.density
    assert hook.type == 'ghm_mmdet.GradientDensityHook'
    for key, default in (('loss_cls', 'bbox_head.loss_cls'), ('loss_bbox', 'bbox_head.loss_bbox')):
        loss = config.model
        for part in hook.get(key, default).split('.'):
            loss = loss[part]
        assert key == 'loss_bbox' or loss.get('use_sigmoid'), 'Eq. 3 is of a sigmoid'


@pytest.mark.parametrize('content', ['', 'model = dict(', 'x = 1\n'])
def test_report_without_a_config_that_is_whole(
    content: str, settings: RunSettings, fake: FakeMIM, capsys: pytest.CaptureFixture
) -> None:
    run_missing(tables([5]), settings)
    recorded = settings.work_dir / GHM_C / f'test/epoch_14/{GHM_C}.py'
    recorded.write_text(content, encoding='utf-8')
    capsys.readouterr()
    rows = report(tables([5]), settings.work_dir)
    assert '| SL1 | 35.8 |  |  | 55.5 |' in rows
    assert '| GHM-R | 36.4 |  |' not in rows, 'the other runs stay'
    assert capsys.readouterr().err.startswith(f'{recorded}: left out, ')


@pytest.mark.parametrize('content', ['{"AP": 39.9,}', '{"AP": "high"}', '[39.9]'])
def test_report_without_scores_that_can_not_be_read(
    content: str, settings: RunSettings, fake: FakeMIM, capsys: pytest.CaptureFixture
) -> None:
    run_missing(tables([3]), settings)
    name = paper_runs(tables([3]), settings)[0].name
    scores = settings.work_dir / name / TEST_DEV_SCORES
    whole = report(tables([3]), settings.work_dir)
    scores.write_text(content, encoding='utf-8')
    capsys.readouterr()
    assert report(tables([3]), settings.work_dir) == whole
    assert capsys.readouterr().err.startswith(f'{scores}: left out, ')


def test_a_recorded_config_that_is_not_whole_is_named(
    settings: RunSettings, fake: FakeMIM, capsys: pytest.CaptureFixture
) -> None:
    recorded = settings.work_dir / GHM_C / f'{GHM_C}.py'
    recorded.parent.mkdir(parents=True)
    recorded.write_text('model = dict(', encoding='utf-8')
    assert run_missing(tables([5]), settings) == {}
    assert f'{recorded}: left out, SyntaxError' in capsys.readouterr().err


def test_report_counts_whole_lines_and_names_the_rest(
    settings: RunSettings, fake: FakeMIM, capsys: pytest.CaptureFixture
) -> None:
    """As a killed writer or a full disk leaves a log, here within a character of UTF-8."""
    run_missing(tables([5]), settings)
    whole = report(tables([5]), settings.work_dir)
    log = settings.work_dir / GHM_C / 'test/epoch_14/1/1.json'
    log.write_bytes(log.read_bytes() + b'\n{"coco/bbox_mAP": 0.9, "\xce')
    capsys.readouterr()
    assert report(tables([5]), settings.work_dir) == whole
    assert capsys.readouterr().err.startswith(f'{log}, line 2: left out, JSONDecodeError: ')
    log.write_text('{"coco', encoding='utf-8')
    assert '| SL1 | 35.8 |  |  | 55.5 |' in report(tables([5]), settings.work_dir)
    assert capsys.readouterr().err.startswith(f'{log}, line 1: left out, JSONDecodeError: ')


def test_recorded_config_is_the_wanted_one(settings: RunSettings, tmp_path: Path) -> None:
    """What the comparison of folders rests on: a config survives being dumped."""
    config = paper_run(GHM_R, settings).wanted
    config.dump(tmp_path / 'dumped.py')
    assert differences(Config.fromfile(tmp_path / 'dumped.py'), config) == []


#: Instead of MIM: as that and PyTorch's launcher, it starts what trains in a session of its own.
LAUNCHER = """
import os, subprocess, sys
code = 'import os, time; print(os.getpid(), file=open(sys.argv[1], "a")); time.sleep(100)'
folder = sys.argv[sys.argv.index('--work-dir') + 1]
training = [sys.executable, '-c', f'import sys; {code}', f'{folder}.pids']
os.makedirs(folder, exist_ok=True)
subprocess.run(training, start_new_session=True)
"""
STUDY = """
import sys
from functools import partial
from pathlib import Path
from ghm_mmdet.cli.streams import command_line
from ghm_mmdet.experiments.experiment import Experiment, RunSettings
from ghm_mmdet.experiments.run import run_missing
settings = RunSettings(Path(sys.argv[1]))
config = Path('configs/demo/retinanet_r18_fpn_ghmc-ghmr_demo.py')
with command_line():
    run_missing([Experiment(name, config, settings) for name in 'abc'], jobs=2)
"""


def lives(pid: int) -> bool:
    stat = Path(f'/proc/{pid}/stat')
    return stat.exists() and stat.read_text(encoding='utf-8').split()[2] != 'Z'


@pytest.mark.skipif(not Path('/proc/self/task').exists(), reason='needs the processes of Linux')
@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize('jobs', [1, 2])
def test_a_signal_ends_all_that_was_started(
    coco_root: Path, tmp_path: Path, number: signal.Signals, jobs: int
) -> None:
    (tmp_path / 'mim').mkdir()
    (tmp_path / 'mim/__init__.py').touch()
    (tmp_path / 'mim/__main__.py').write_text(LAUNCHER, encoding='utf-8')
    command = ['-c', STUDY, str(tmp_path)]
    if jobs == 1:
        command = ['-m', 'ghm_mmdet', 'reproduce', 'run', '--table', '7', '--gpus', '0']
        command += ['--data-root', str(coco_root), '--work-dir', str(tmp_path)]
    paths = os.pathsep.join([str(tmp_path), str(ROOT)])
    runner = subprocess.Popen(
        [sys.executable, *command], env={**os.environ, 'PYTHONPATH': paths}, cwd=ROOT,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        # Which a shell's job in the background ignores, and so would all that it starts.
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    deadline = time.monotonic() + 100
    while len(pids := [f.read_text('utf-8') for f in tmp_path.glob('*.pids')]) < jobs or '' in pids:
        assert time.monotonic() < deadline and runner.poll() is None
        time.sleep(0.05)
    runner.send_signal(number)
    printed, errors = runner.communicate(timeout=30)
    assert [pid for pid in pids if lives(int(pid))] == []
    assert (runner.returncode, errors) == (130, 'interrupted\n')
    assert 'FAILED' not in printed
    assert len([*tmp_path.glob('*.pids')]) == jobs, 'none is started after the signal'


@pytest.mark.slow
def test_a_killed_rehearsal_goes_on(coco_root: Path, tmp_path: Path) -> None:
    """Train, test and report Table 5 for real, with the whole group of processes killed once."""
    tool = [sys.executable, str(ROOT / 'tools/reproduce.py')]
    common = ['--table', '5', '--work-dir', str(tmp_path)]
    run = [*tool, 'run', *common, '--data-root', str(coco_root), '--gpus', '0']
    run += ['--cfg-options', *SMALL]
    first = tmp_path / GHM_C
    with open(tmp_path / 'first.log', 'w', encoding='utf-8') as log:
        process = subprocess.Popen(run, start_new_session=True, stdout=log, stderr=log, cwd=ROOT)
        deadline = time.monotonic() + 300
        while not (first / 'last_checkpoint').exists() and process.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    assert process.returncode == -signal.SIGKILL, (tmp_path / 'first.log').read_text(
        encoding='utf-8'
    )
    assert Path((first / 'last_checkpoint').read_text(encoding='utf-8')).name == 'epoch_1.pth'

    done = subprocess.run(run, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    logs = ''.join(log.read_text(encoding='utf-8') for log in tmp_path.glob('retinanet*.log'))
    assert logs.count('resumed epoch: 1, iter: ') == 1
    for name in (GHM_C, ASL1, GHM_R):
        assert (tmp_path / name / 'epoch_3.pth').exists()
    again = subprocess.run(run, capture_output=True, text=True, cwd=ROOT)
    assert again.returncode == 0
    assert again.stdout.count('its result is there') == 3

    text = subprocess.check_output([*tool, 'report', *common], text=True, cwd=ROOT)
    assert '**Not COCO**: trained on 40 images and evaluated on 8' in text
    assert '`train_cfg.max_epochs=3`, not `14`' in text
    for method, paper in (('SL1', 35.8), ('ASL1', 35.7), ('GHM-R', 36.4)):
        [row] = [line for line in text.splitlines() if line.startswith(f'| {method} |')]
        cells = [cell.strip() for cell in row.split('|')[1:-1]]
        assert float(cells[1]) == paper
        assert 0 <= float(cells[2]) <= 100
        assert float(cells[3]) == pytest.approx(float(cells[2]) - paper, abs=0.051)
