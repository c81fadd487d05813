"""Experiments: what is run and what is not, failures, jobs, the file of results."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path

import pytest

from ghm_mmdet.experiments.configs import load_config
from ghm_mmdet.experiments.markdown import markdown_table
from ghm_mmdet.experiments.run import run_missing
from studies import random_weights
from studies.command_line import perform, study_parser
from studies.experiment import Experiment, StudySettings, ap_cells, read_results

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
class Quick(Experiment):
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


def quick(settings: StudySettings, *names: str, fails: str | None = None) -> list[Experiment]:
    return [Quick(n, GHM_CONFIG, settings, seed=0, fails=n == fails) for n in names]


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
    pointer = run.folder / 'last_checkpoint'
    pointer.write_text(str(run.checkpoint.with_name('epoch_1.pth')), encoding='utf-8')
    assert run.result() is None
    pointer.write_text(str(run.checkpoint), encoding='utf-8')
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
    assert [(row.run, row.seed, row.metrics) for row in read_results(kept.results).values()] == [
        (name, 0, {'bbox_mAP': 0.25}) for name in ('a-seed0', 'b-seed0')
    ]
    elsewhere = replace(kept, work_dir=settings.work_dir / 'other')
    assert run_missing(quick(elsewhere, 'a', 'b', fails='a')) == {}
    assert len(read_results(kept.results)) == 2
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
    assert [*read_results(kept.results)] == ['a-seed0', 'b-seed0']
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
