"""A comparison: the trainings of its arms, and what is reported of them."""

from __future__ import annotations

import copy
import json
import os
import platform
import re
import sys
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout, suppress
from dataclasses import replace
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
from ..experiments.experiment import RunSettings
from ..experiments.run import run_missing
from ..preflight import Finding, check_config
from ..swap import inherited_config, load
from .arms import (
    ARMS,
    BASELINES,
    CLIPPED,
    ORIGINAL,
    known_norm,
    logging_norms,
    norm_exceeded,
    recording,
)  # fmt: skip
from .page import write_report
from .pictures import draw_crops
from .training import Training
from .verdict import verdict


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
        self.sources = {**dict.fromkeys(names, config), **{k: str(v) for k, v in added.items()}}
        options = parse_options(settings.cfg_options)
        #: By path, the config that is there.
        self.bases = {source: load(source) for source in {config, *self.sources.values()}}
        self.given = {source: _as_trained(base, options) for source, base in self.bases.items()}
        self.original = self.given[config]
        self.written: dict[str, Config] = {}
        self._settings = replace(settings, cfg_options=())
        self._check(added)
        self._first = self._training(ORIGINAL, 0)
        arms_of_seeds = ((arm, seed) for seed in range(seeds) for arm in self.sources)
        self.trainings = [self._training(*each) for each in arms_of_seeds]

    def _check(self, added: Mapping[str, Path]) -> None:
        if not {*BASELINES} & {*self.sources}:
            raise ValueError(f'arms must have {" or ".join(BASELINES)}, to compare with')
        if self._waits(CLIPPED) and ORIGINAL not in self.sources:
            raise ValueError(
                f'arms must have {ORIGINAL}, which shows the norm that {CLIPPED} takes'
            )
        for name in added:
            if name in ARMS or not re.fullmatch(r'[\w.-]+', name):
                raise ValueError(f'an added arm must have a name of its own, a word, got {name!r}')
            for key, *_ in differences(self.original, self.given[self.sources[name]]):
                if re.match(r'val_.*ann_file$', key):
                    raise ValueError(f'{name} must be evaluated on the same images: {key} differs')

    def _waits(self, arm: str) -> bool:
        """Whether an arm takes a norm that must be measured."""
        return arm == CLIPPED and arm in self.sources and known_norm(self.original) is None

    def _training(self, arm: str, seed: int) -> Training:
        options = recording(self.given[self.sources.get(arm, self.config)])
        options += logging_norms(self.original) if arm == ORIGINAL else ()
        options += (
            f'gpus={max(1, self._settings.gpus)}',
        )  # Recorded, for the batch depends on it.
        after = self._first if self._waits(arm) else None
        path, write = self.folder / f'{arm}.py', partial(self.write, arm)
        return Training(arm, path, self._settings, options, seed, after, write)

    def norm(self) -> float | None:
        """That the arm `CLIPPED` is clipped at; None until it is known."""
        over = self._first.is_trained() or self._first.lost()
        measured = norm_exceeded(logs.gradient_norms(self._first.folder)) if over else None
        return known_norm(self.original) or measured

    def what(self, arm: str) -> str:
        """A few words on an arm."""
        norm = self.norm()
        shown = f'a norm that {ORIGINAL} shows' if norm is None else f'norm {norm:g}'
        return ARMS[arm].what.format(norm=shown) if arm in ARMS else self.sources[arm]

    def write(self, arm: str) -> None:
        """Write the config of an arm, which inherits from the given one.

        Raises:
            ValueError: The norm that it takes is not known.
        """
        if arm not in self.written:
            source, path = self.sources[arm], self.folder / f'{arm}.py'
            given = self.given[source]
            config = ARMS[arm].config(given, self.norm()) if arm in ARMS else given
            text = inherited_config(source, self.bases[source], config, path, self.what(arm))
            write_whole(path, text)
            self.written[arm] = config

    def findings(self) -> list[Finding]:
        """What the doctor says of the configs, before the first hour is spent."""
        gpus = None if 'slurm' in self._settings.launcher else self._settings.gpus
        return [finding for config in self.given.values() for finding in check_config(config, gpus)]

    def plan(self, commands: bool) -> str:
        """What runs, in a line for each arm, and the commands if they are asked for."""
        lines = [f'{arm}: {self.what(arm)}' for arm in self.sources]
        lines.append(f'trainings: {len(self.trainings)}, in {self.folder}')
        for training in self.trainings if commands else ():
            command = training.command('train', '--resume', '--work-dir', str(training.folder))
            lines.append(shell_line(command, self._settings.environment))
        return '\n'.join(lines)

    def run(self, jobs: int) -> bool:
        """Train what is missing, and report after each; whether all came to a result.

        Raises:
            ValueError: A folder holds a training with other settings.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        for training in self.trainings:
            if training.after is None or self.norm() is not None:
                training.prepare()
                training.check()
        self.report({})
        failures = run_missing(self.trainings, jobs, self.report)
        is_reported = self.report(failures, self._pictures())
        print(verdict(self.results(failures)).sentence)
        print(f'page: {self.folder / "page.html"}')
        return is_reported and not failures

    def results(self, failures: Mapping[str, str]) -> dict[str, Any]:
        """What `results.json` holds; `failures` are those of this process, by run."""
        for arm in self.sources:
            with suppress(ValueError, OSError):  # Another process may have seen the norm.
                self.write(arm)
        settings = {
            arm: {key: value for key, _, value in differences(self.original, config)}
            for arm, config in self.written.items()
        }
        versions = dict(ghm_mmdet=__version__, torch=torch.__version__, mmdet=mmdet.__version__)
        return dict(
            config=self.config,
            metric='AP',
            baselines=[arm for arm in BASELINES if arm in self.sources],
            arms=[
                dict(name=a, what=self.what(a), settings=settings.get(a, {}), config=f'{a}.py')
                for a in self.sources
            ],
            seeds=[*range(self.seeds)],
            runs=[training.entry(failures) for training in self.trainings],
            versions=dict(versions, python=platform.python_version()),
        )

    def report(
        self, failures: Mapping[str, str], pictures: dict[str, list[bytes]] | None = None
    ) -> bool:
        """Write `results.json`, `page.html` and `report.md` as far as the trainings are, or say why
        not: then those of before stay.
        """
        firsts = (training for training in self.trainings if training.seed == 0)
        records = {first.name: first.folder / 'gradient_density.npz' for first in firsts}
        densities = {name: path for name, path in records.items() if path.exists()}
        try:
            results = self.results(failures)
            write_whole(self.folder / 'results.json', json.dumps(results, indent=1))
            write_report(self.folder, results, pictures, densities)
        except Exception as error:  # The trainings go on.
            print(f'the report is not written: {type(error).__name__}: {error}', file=sys.stderr)
            return False
        return True

    def _pictures(self) -> dict[str, list[bytes]] | None:
        """Of the detectors of the first seed."""
        firsts = (each for each in self.trainings if each.seed == 0 and each.is_trained())
        detectors = {first.name: (first.config, first.last_checkpoint) for first in firsts}
        device = 'cuda' if self._settings.gpus and torch.cuda.is_available() else 'cpu'
        try:
            with redirect_stdout(StringIO()):  # pycocotools prints
                return draw_crops(self.original, detectors, device)
        except Exception as error:
            print(f'no pictures: {type(error).__name__}: {error}', file=sys.stderr)
            return None


def _as_trained(base: Config, options: dict[str, object]) -> Config:
    """With `--cfg-options`, from the beginning."""
    config = copy.deepcopy(base)
    config.merge_from_dict(options)
    if config.get('resume'):
        config.resume, config.load_from = False, None
    return config


def write_whole(path: Path, text: str) -> None:
    """Write a file in one step, beside other threads and processes that do."""
    partly = path.with_name(f'.{path.name}.{os.getpid()}-{get_ident()}')
    try:
        partly.write_text(text, encoding='utf-8')
        os.replace(partly, path)
    except OSError:
        partly.unlink()
        raise
