"""Experiments: what is run and what is not, failures, jobs, the file of results."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path

import pytest
import torch
from rich.console import Console

from ghm_mmdet.experiments import logs, progress
from ghm_mmdet.experiments.configs import load_config
from ghm_mmdet.experiments.experiment import RunSettings
from ghm_mmdet.experiments.markdown import markdown_table
from ghm_mmdet.experiments.progress import Display, time_left
from ghm_mmdet.experiments.run import check_gpus, run_missing
from studies import random_weights
from studies.random_weights import ap_cells
from studies.study import StudySettings, Training, perform, study_parser

from .training import GHM_CONFIG, ROOT

SCRIPT = """
import json, os, pathlib, sys
folder, fails = pathlib.Path(sys.argv[2]), sys.argv[3] == 'True'
print('threads', os.environ['OMP_NUM_THREADS'], 'root', os.environ.get('COCO_ROOT'))
if fails:
    sys.exit('out of memory')
(folder / '1').mkdir(parents=True)
(folder / '1/1.json').write_text(json.dumps({'coco/bbox_mAP': 0.25}) + chr(10))
"""


@dataclass(frozen=True)
class Quick(Training):
    """An experiment that trains nothing."""

    fails: bool = False

    def commands(self) -> list[list[str]]:
        script = self.settings.work_dir / 'script.py'
        return [[sys.executable, str(script), 'train', str(self.folder), str(self.fails)]]


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StudySettings:
    monkeypatch.delenv('OMP_NUM_THREADS', raising=False)
    (tmp_path / 'script.py').write_text(SCRIPT, encoding='utf-8')
    return StudySettings(tmp_path, 'nowhere')


def quick(settings: StudySettings, *names: str, fails: str | None = None) -> list[Training]:
    return [Quick(n, GHM_CONFIG, settings, seed=0, fails=n == fails) for n in names]


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding='utf-8').splitlines()]


@pytest.mark.parametrize('jobs', [1, 2])
def test_goes_on_after_a_failure_and_lists_it(
    settings: StudySettings, jobs: int, capfd: pytest.CaptureFixture
) -> None:
    failures = run_missing(quick(settings, 'a', 'b', 'c', fails='b'), jobs)
    log = settings.work_dir / 'b-seed0.log'
    folder = settings.work_dir / 'b-seed0'
    assert failures == {'b-seed0': f'train {folder} ended with exit status 1, see {log}'}
    assert 'out of memory' in log.read_text(encoding='utf-8')
    threads = max(1, os.cpu_count() // jobs)
    assert f'threads {threads} root nowhere/' in log.read_text(encoding='utf-8')
    printed = capfd.readouterr().out
    assert printed.endswith(f'1 failed:\nb-seed0: {failures["b-seed0"]}\n')
    assert 'a-seed0: AP 25.0\n' in printed and 'c-seed0: AP 25.0\n' in printed
    assert run_missing(quick(settings, 'a', 'b', 'c'), jobs) == {}
    printed = capfd.readouterr().out
    assert printed.count('its result is there') == 2
    assert ap_cells(quick(settings, 'a', 'd')) == ['25.0', None, None]


def test_threads_that_the_user_asks_for_are_kept(
    settings: StudySettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv('OMP_NUM_THREADS', '37')
    assert run_missing(quick(settings, 'a')) == {}
    assert 'threads 37 ' in (settings.work_dir / 'a-seed0.log').read_text(encoding='utf-8')


def test_the_first_trainings_need_not_race_for_the_folder_of_mim(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv('HOME', str(tmp_path))
    run_missing([], jobs=2)
    found = [*tmp_path.rglob('mim')]
    home = 'from mim.utils import DEFAULT_CACHE_DIR as folder; print(folder)'
    folder = subprocess.run([sys.executable, '-c', home], capture_output=True, text=True).stdout
    assert found == [Path(folder.strip())]


def test_a_training_that_detects_nothing_has_an_ap_of_0(settings: StudySettings) -> None:
    """No metric is in its log; its failure is a result, and not left out of the tables."""
    [run] = quick(settings, 'a')
    run.folder.mkdir()
    assert run.result() is None
    (run.folder / 'finished').touch()
    assert run.result()['bbox_mAP'] == run.result()['bbox_mAP_75'] == 0
    (run.folder / '1').mkdir()
    (run.folder / '1/1.json').write_text('{"coco/bbox_mAP": 0.25}', encoding='utf-8')
    assert run.result()['bbox_mAP'] == 0.25


def test_waits_for_the_experiment_that_it_starts_from(settings: StudySettings) -> None:
    [first] = quick(settings, 'first')

    @dataclass(frozen=True)
    class Second(Quick):
        def check(self) -> None:
            assert self.after.result()

    second = Second('second', GHM_CONFIG, settings, seed=0, after=first)
    assert run_missing([first, second], jobs=2) == {}


def test_file_of_results_is_written_and_skips_what_it_has(settings: StudySettings) -> None:
    kept = replace(settings, results=settings.work_dir / 'kept/results.jsonl')
    run_missing(quick(settings, 'a'))
    assert run_missing(quick(kept, 'a', 'b')) == {}
    assert [(row['run'], row['seed'], row['metrics']) for row in lines(kept.results)] == [
        (name, 0, {'bbox_mAP': 0.25}) for name in ('a-seed0', 'b-seed0')
    ]
    elsewhere = replace(kept, work_dir=settings.work_dir / 'other')
    assert run_missing(quick(elsewhere, 'a', 'b', fails='a')) == {}
    assert len(lines(kept.results)) == 2
    changed = replace(elsewhere, cfg_options=('a.b=1',))
    [failure] = run_missing(quick(changed, 'a')).values()
    assert 'results.jsonl holds a-seed0 with other settings' in failure


def test_half_a_line_of_results_is_left_out_and_not_gone_on_with(
    settings: StudySettings, capsys: pytest.CaptureFixture
) -> None:
    kept = replace(settings, results=settings.work_dir / 'results.jsonl')
    assert run_missing(quick(kept, 'a')) == {}
    with open(kept.results, 'a', encoding='utf-8') as file:
        file.write('{"run": "b-se')
    assert run_missing(quick(kept, 'b')) == {}
    assert [run.kept()['run'] for run in quick(kept, 'a', 'b')] == ['a-seed0', 'b-seed0']
    assert f'{kept.results}, line 2: left out, JSONDecodeError: ' in capsys.readouterr().err


def test_other_settings_in_a_folder_are_refused(settings: StudySettings) -> None:
    [trained] = quick(settings, 'a')
    trained.folder.mkdir(parents=True)
    trained.wanted.dump(trained.folder / GHM_CONFIG.name)
    assert run_missing([trained]) == {}
    other = replace(trained, options=('optim_wrapper.optimizer.lr=7',))
    [failure] = run_missing([other]).values()
    assert 'optim_wrapper.optimizer.lr: 0.001, now 7' in failure and '--work-dir' in failure


def test_config_is_that_of_another_environment() -> None:
    before = dict(os.environ)
    config = load_config(GHM_CONFIG, {'DEMO_ROOT': '/x y/'}, ['a.b=(1,2)', 'c=None'])
    assert config.train_dataloader.dataset.data_root == '/x y/'
    assert config.val_evaluator.ann_file == '/x y/annotations/val.json'
    assert (config.a.b, config.c) == ((1, 2), None)
    default = load_config(GHM_CONFIG, {})
    assert default.val_evaluator.ann_file == 'work_dirs/demo/data/annotations/val.json'
    assert dict(os.environ) == before


def test_table_escapes_bars() -> None:
    assert markdown_table(['a|b', 'c'], [[1, None]]) == '| a\\|b | c |\n|---|---|\n| 1 |  |'


def test_a_study_plans_and_reports(
    tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    parser = study_parser('', str(tmp_path))
    study = random_weights
    parts = (study.VARIANTS, study.experiment, study.table)
    perform(parser.parse_args(['plan', '--only', 'bccd*', 'ssd-original']), *parts)
    planned = capsys.readouterr().out.splitlines()
    assert len(planned) == 2 * (3 + 2), 'SSD is tested by itself'
    with pytest.raises(SystemExit) as stop:
        perform(parser.parse_args(['report']), *parts)
    assert not stop.value.code
    with pytest.raises(SystemExit, match='--only x names none of'):
        perform(parser.parse_args(['run', '--only', 'x']), *parts)


@pytest.mark.parametrize('name', sorted(path.stem for path in (ROOT / 'studies').glob('*.py')))
def test_every_study_imports(name: str) -> None:
    import_module(f'studies.{name}')


GPUS = """
import os, pathlib, sys
with open(pathlib.Path(sys.argv[2]).parent / 'gpus', 'a') as file:
    file.write(os.environ['CUDA_VISIBLE_DEVICES'] + chr(10))
pathlib.Path(sys.argv[2]).mkdir()
while len((pathlib.Path(sys.argv[2]).parent / 'gpus').read_text().split()) < 2:
    pass
"""


@pytest.mark.parametrize(
    ('visible', 'gpus', 'expected'),
    [(None, 2, ['0,1', '2,3']), ('5,7', 1, ['5', '7']), ('5', 1, ['5', '5'])],
)
def test_each_job_has_gpus_of_its_own(
    settings: StudySettings, monkeypatch: pytest.MonkeyPatch,
    visible: str | None, gpus: int, expected: list[str],
) -> None:  # fmt: skip
    (settings.work_dir / 'script.py').write_text(GPUS, encoding='utf-8')
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: 4)
    monkeypatch.delenv('CUDA_VISIBLE_DEVICES', raising=False)
    if visible:
        monkeypatch.setenv('CUDA_VISIBLE_DEVICES', visible)
    run_missing(quick(replace(settings, gpus=gpus), 'a', 'b'), jobs=2)
    assert sorted((settings.work_dir / 'gpus').read_text('utf-8').split()) == expected


def test_gpus_that_are_not_there_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """MMEngine would train on the CPU, and say nothing."""
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: 1)
    check_gpus(RunSettings(gpus=1))
    check_gpus(RunSettings(gpus=2, launcher=('--launcher', 'slurm')))
    with pytest.raises(ValueError, match=r'gpus must be <= 1, .*, got 2'):
        check_gpus(RunSettings(gpus=2))


EPOCHS = """
2026/11/30 20:50:37 - mmengine - INFO - Epoch(train)  [2][ 50/200]  lr: 1e-3  eta: 1 day, 0:02:30  time: 0.5000
2026/11/30 20:50:58 - mmengine - INFO - Epoch(val) [2][8/8]    coco/bbox_mAP: 0.1230  coco/bbox_mAP_50: 0.2
2026/11/30 20:50:59 - mmengine - INFO - Epoch(train)  [3][200/200]  lr: 1e-3  eta: 0:05:00  time: 0.5000  loss: 1
"""  # noqa: E501


def test_how_far_a_training_is_is_read_from_what_it_printed(tmp_path: Path) -> None:
    log = tmp_path / 'a.log'
    assert logs.progress(log) is None
    log.write_text(EPOCHS.rpartition('2026')[0], encoding='utf-8')
    day = 24 * 3600 + 150
    assert logs.progress(log) == (125 / (125 + day), 125 + day, pytest.approx(12.3))
    log.write_text('x' * 2**17 + EPOCHS, encoding='utf-8')
    assert logs.progress(log) == (0.5, 600, pytest.approx(12.3))


def test_time_left_is_that_of_all_that_are_not_over(settings: StudySettings) -> None:
    runs = quick(settings, 'a', 'b', 'c')
    seconds = {'a-seed0': 100, 'b-seed0': 300, 'over': 200}
    # Half of a, all of b, and for c the mean of those that are known.
    assert time_left(runs, {'a-seed0': 0.5}, seconds) == 50 + 300 + 200


def test_without_a_terminal_a_line_a_minute_says_how_far_they_are(
    settings: StudySettings, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = quick(settings, 'a', 'b', 'c')
    runs[1].log.write_text(EPOCHS, encoding='utf-8')
    display = Display(3, jobs=2)
    display.show(runs, {runs[0]})
    assert capsys.readouterr().out == '', 'nothing is known'
    for _ in range(2):
        display.show(runs[1:], {runs[1]})
    # 600 s each: half of b and all of c, two at a time.
    line = 'b-seed0, AP 12.3 (50%); 1 of 3 done, about 8 min left (33%)\n'
    assert capsys.readouterr().out == line
    monkeypatch.setattr(progress.time, 'monotonic', lambda: time.time() * 2)
    display.show(runs[1:], {runs[1]})
    assert capsys.readouterr().out == line, 'a minute later'


def test_on_a_terminal_each_training_has_a_bar(
    settings: StudySettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    [run] = quick(settings, 'a')
    run.log.write_text(EPOCHS, encoding='utf-8')
    monkeypatch.setattr(sys.stdout, 'isatty', lambda: True, raising=False)
    display = Display(2, jobs=1)
    display.show([run], {run})
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(display.live.get_renderable())
    first, second = console.export_text().splitlines()
    assert first.startswith('a-seed0, AP 12.3 ') and first.rstrip().endswith(' 50%')
    assert second.startswith('1 of 2 done, about 5 min left')
