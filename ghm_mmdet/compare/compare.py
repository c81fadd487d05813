"""A comparison: the trainings of its arms, and what is reported of them."""

from __future__ import annotations

import copy
import json
import os
import platform
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import redirect_stdout, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from io import StringIO
from pathlib import Path
from threading import get_ident
from typing import Any

import mmdet
import torch
from mmengine.config import Config

from .. import __version__
from ..experiments import logs
from ..experiments.commands import shell_line
from ..experiments.configs import differences, parse_options
from ..experiments.experiment import Experiment, RunSettings
from ..experiments.run import run_missing
from ..preflight import Finding, check_config
from ..swap import inherited_config, load
from .arms import (
    ARMS,
    BASELINES,
    CLIPPED,
    ORIGINAL,
    Arm,
    known_norm,
    logging_norms,
    norm_exceeded,
    recording,
)  # fmt: skip
from .page import write_report
from .pictures import draw_crops
from .verdict import verdict

#: So many records of a loss that is not finite, and a training is given up.
LOST = 3


@dataclass(frozen=True)
class Training(Experiment):
    """The training of an arm with a seed."""

    write_config: Callable[[], None] = field(default=lambda: None, compare=False)

    def prepare(self) -> None:
        """Write the config of its arm."""
        self.write_config()

    def watch(self) -> None:
        """Give up what has diverged."""
        if why := self.lost():
            raise ValueError(why)

    def missing(self) -> Iterator[list[str]]:
        """The training, unless it is known to come to nothing."""
        self.watch()
        yield from super().missing()
        self.watch()

    def lost(self) -> str | None:
        """Why it comes to no result, if it does not."""
        since = logs.diverged_since(self.folder)
        if since and (since[1] >= LOST or self.is_trained()):
            return f'the loss is NaN since iteration {since[0]}'
        return 'it has no validation' if self.is_trained() and not self.curve() else None

    def curve(self) -> list[dict[str, Any]]:
        """Each validation: its iteration, AP in percent, and AP by class."""
        return [_point(*validation) for validation in logs.validations(self.folder)]

    def entry(self, failures: Mapping[str, str]) -> dict[str, Any]:
        """What `results.json` has of it; `failures` are those of this process."""
        why = self.lost() or failures.get(self.run)
        state = 'failed' if why else 'done' if self.is_trained() else 'missing'
        return dict(
            arm=self.name, seed=self.seed, why=why, curve=self.curve(), folder=self.run,
            state='running' if state == 'missing' and self.is_running() else state,
            seconds_per_iteration=logs.newest_part(self.folder).seconds,
        )  # fmt: skip


def _point(iteration: int, metrics: Mapping[str, float]) -> dict[str, Any]:
    """A validation of COCO's or Pascal VOC's metrics; there are none where nothing is detected."""
    point: dict[str, Any] = dict(iteration=iteration)
    for column, of_voc in (('AP', 'mAP'), ('AP50', 'AP50'), ('AP75', 'AP75')):
        found = metrics.get(logs.METRICS[column], metrics.get(of_voc, -1))
        point[column] = _percent(found) if metrics else 0.0
    end = '_precision'
    classes = {key[: -len(end)]: _percent(v) for key, v in metrics.items() if key.endswith(end)}
    return dict(point, classes=classes)


def _percent(value: float) -> float | None:
    """None where there is no object: MMDetection has -1 or NaN."""
    return round(100 * value, 4) if value >= 0 else None


class Comparison:
    """A config with several losses, each trained with the same seeds.

    Args:
        config: Path or name of the original.
        names: Of the arms, of `ARMS`.
        added: Arms of one's own: name to config.
        seeds: How many, from 0.
        settings: Of the trainings; `cfg_options` are those of the config of every arm.

    Raises:
        ValueError: There is no baseline, or an arm has no name of its own or is evaluated on
            other images.
    """

    def __init__(
        self,
        config: str,
        names: Sequence[str],
        added: Mapping[str, Path],
        seeds: int,
        settings: RunSettings,
    ) -> None:
        self.config, self.seeds, self.folder = config, seeds, settings.work_dir
        self._options = parse_options(settings.cfg_options)
        self._sources: dict[str, str | Path] = {**dict.fromkeys(names, config), **added}
        #: Each config as it is, and as it is trained here.
        self._configs = {source: self._read(source) for source in {config, *added.values()}}
        self.original = self._configs[config][1]
        self.arms = {name: ARMS.get(name) or self._own_arm(name) for name in self._sources}
        self.written: dict[str, Config] = {}
        check_arms(self, added)
        self._settings = replace(settings, cfg_options=())
        of_sources = {source: recording(config) for source, (_, config) in self._configs.items()}
        self._recording = {arm: of_sources[source] for arm, source in self._sources.items()}
        self._first = self._training(ORIGINAL, 0)
        self.trainings = [self._training(arm, seed) for seed in range(seeds) for arm in self.arms]

    def _read(self, source: str | Path) -> tuple[Config, Config]:
        base = load(source)
        config = copy.deepcopy(base)
        config.merge_from_dict(self._options)
        if config.get('resume'):
            config.resume, config.load_from = False, None
        return base, config

    def _own_arm(self, name: str) -> Arm:
        source = self._sources[name]
        return Arm(str(source), lambda *_: self._configs[source][1])

    def _training(self, arm: str, seed: int) -> Training:
        options = self._recording.get(arm, ())
        if arm == ORIGINAL:
            options += logging_norms(self.original)
        waits = arm == CLIPPED and known_norm(self.original) is None
        return Training(
            arm, self.folder / f'{arm}.py', self._settings, options, seed,
            self._first if waits else None, partial(self.write, arm),
        )  # fmt: skip

    def norm(self) -> float | None:
        """That the arm `CLIPPED` is clipped at; None until it is known."""
        over = self._first.is_trained() or self._first.lost()
        measured = norm_exceeded(logs.gradient_norms(self._first.folder)) if over else None
        return known_norm(self.original) or measured

    def write(self, arm: str) -> None:
        """Write the config of an arm, which inherits from the given one.

        Raises:
            ValueError: The norm that it takes is not known.
        """
        if arm not in self.written:
            source, path = self._sources[arm], self.folder / f'{arm}.py'
            config = self.arms[arm].config(self.original, self.norm())
            base, comment = self._configs[source][0], self._what(arm)
            write_whole(path, inherited_config(source, base, config, path, comment))
            self.written[arm] = config

    def _what(self, arm: str) -> str:
        norm = self.norm()
        shown = f'a norm that {ORIGINAL} shows' if norm is None else f'norm {norm:g}'
        return self.arms[arm].what.format(norm=shown)

    def start(self) -> None:
        """Write the configs of the arms.

        Raises:
            ValueError: A folder holds a training with other settings.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        for training in self.trainings:
            if training.after is None or self.norm() is not None:
                training.prepare()
                training.check()

    def results(self, failures: Mapping[str, str]) -> dict[str, Any]:
        """What `results.json` holds."""
        arms = []
        for name in self.arms:
            with suppress(ValueError, OSError):  # Another process may have seen the norm.
                self.write(name)
            config = self.written.get(name, self.original)
            settings = {key: value for key, _, value in differences(self.original, config)}
            arm = dict(name=name, what=self._what(name), settings=settings, config=f'{name}.py')
            arms.append(arm)
        versions = dict(
            ghm_mmdet=__version__, torch=torch.__version__, mmdet=mmdet.__version__,
            python=platform.python_version(),
        )  # fmt: skip
        return dict(
            config=str(self.config), metric='AP', arms=arms,
            baselines=[name for name in BASELINES if name in self.arms],
            seeds=[*range(self.seeds)], versions=versions,
            runs=[training.entry(failures) for training in self.trainings],
        )  # fmt: skip

    def _report(
        self, failures: Mapping[str, str], pictures: dict[str, list[bytes]] | None = None
    ) -> bool:
        """Write `results.json`, `page.html` and `report.md` as far as the trainings are, or say why
        not: then those of before stay.
        """
        results = self.results(failures)
        firsts = (training for training in self.trainings if training.seed == 0)
        records = {first.name: first.folder / 'gradient_density.npz' for first in firsts}
        densities = {name: path for name, path in records.items() if path.exists()}
        try:
            write_whole(self.folder / 'results.json', json.dumps(results, indent=1))
            write_report(self.folder, results, pictures, densities)
        except Exception as error:  # The trainings go on.
            print(f'the report is not written: {type(error).__name__}: {error}', file=sys.stderr)
            return False
        return True

    def findings(self) -> list[Finding]:
        """What the doctor says of the configs, before the first hour is spent."""
        gpus = None if 'slurm' in self._settings.launcher else self._settings.gpus
        configs = (config for _, config in self._configs.values())
        return [finding for config in configs for finding in check_config(config, gpus)]

    def plan(self, commands: bool) -> str:
        """What runs, in a line for each arm, and the commands if they are asked for."""
        lines = [f'{name}: {self._what(name)}' for name in self.arms]
        lines.append(f'trainings: {len(self.trainings)}, in {self.folder}')
        environment = self._settings.environment
        for training in self.trainings if commands else ():
            words = training.command('train', '--resume', '--work-dir', str(training.folder))
            lines.append(shell_line(words, environment))
        return '\n'.join(lines)

    def run(self, jobs: int) -> bool:
        """Train what is missing, and report after each; whether all came to a result.

        Raises:
            ValueError: A folder holds a training with other settings.
        """
        self.start()
        self._report({})
        failures = run_missing(self.trainings, jobs, self._report)
        is_reported = self._report(failures, self._pictures())
        print(verdict(self.results(failures)).sentence)
        print(f'page: {self.folder / "page.html"}')
        return is_reported and not failures

    def _pictures(self) -> dict[str, list[bytes]] | None:
        """Of the first seed."""
        trained = {
            training.name: (training.config, training.last_checkpoint)
            for training in self.trainings
            if training.seed == 0 and training.is_trained()
        }
        device = 'cuda' if self._settings.gpus and torch.cuda.is_available() else 'cpu'
        try:
            with redirect_stdout(StringIO()):  # of pycocotools
                return draw_crops(self.original, trained, device)
        except Exception as error:
            print(f'no pictures: {type(error).__name__}: {error}', file=sys.stderr)
            return None


def check_arms(comparison: Comparison, added: Mapping[str, Path]) -> None:
    """Raise ValueError where the arms can't be compared."""
    arms = comparison.arms
    if not {*BASELINES} & {*arms}:
        raise ValueError(f'arms must have {" or ".join(BASELINES)}, to compare with')
    if CLIPPED in arms and ORIGINAL not in arms and known_norm(comparison.original) is None:
        raise ValueError(f'arms must have {ORIGINAL}, which shows the norm that {CLIPPED} takes')
    for name in added:
        if name in ARMS or not re.fullmatch(r'[\w.-]+', name):
            raise ValueError(f'an added arm must have a name of its own, of letters, got {name!r}')
        others = differences(comparison.original, arms[name].config(comparison.original, None))
        if found := [key for key, *_ in others if re.match(r'val_.*ann_file$', key)]:
            raise ValueError(f'{name} must be evaluated on the same images: {found[0]} differs')


def write_whole(path: Path, text: str) -> None:
    """Write a file in one step, beside other threads and processes that do."""
    partial_file = path.with_name(f'.{path.name}.{os.getpid()}-{get_ident()}')
    try:
        partial_file.write_text(text, encoding='utf-8')
        os.replace(partial_file, path)
    except OSError:
        partial_file.unlink()
        raise
