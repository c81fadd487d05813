"""Run what has no result, beside other processes that do the same."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path

import torch
from filelock import FileLock, Timeout

from .commands import end_commands, run_command, shell_line
from .experiment import Experiment, RunSettings
from .logs import ap_of, last_error, tail
from .progress import Display

#: With fewer bytes free, a disk is full.
FULL = 2**20


def run_missing(
    experiments: Iterable[Experiment],
    jobs: int = 1,
    after_each: Callable[[Mapping[str, str]], object] = lambda failures: None,
) -> dict[str, str]:
    """Run what has no result, `jobs` at a time and in this order; go on after a failure.

    An interrupted training resumes from its last checkpoint. One that another process runs, which
    was started over the same folder, is left to it and waited for; where that process is killed,
    this one goes on with it. What the commands print goes to the experiment's `log`.

    On the CPU the jobs share its cores evenly, unless OMP_NUM_THREADS is set; each has GPUs of its
    own, as long as there are enough.

    Args:
        experiments: One waits for that which it comes `after`.
        jobs: How many at a time. Default: 1.
        after_each: Called in this thread after one or more are over, with what is returned so far.

    Returns:
        By the run that failed, the line that says why.

    Raises:
        KeyboardInterrupt: By Ctrl-C; the commands that this process runs are ended.
    """
    # MIM makes its folder where it is missing, and of two processes that start at once one fails.
    Path('~/.cache/mim').expanduser().mkdir(parents=True, exist_ok=True)
    work = _Work(list(experiments), jobs)
    display = Display(len(work.waiting), jobs)
    with display.live, ThreadPoolExecutor(jobs) as pool:
        threads = [pool.submit(work.run, slot) for slot in range(jobs)]
        try:
            left = len(work.waiting)
            while wait(threads, timeout=1).not_done:
                display.show(work.waiting, {*work.slots, *work.elsewhere})
                if left > (left := len(work.waiting)):
                    after_each({**work.failures})
            for thread in threads:
                thread.result()
        except BaseException:
            work.waiting.clear()
            while wait(threads, timeout=0.1).not_done:
                end_commands()
            raise
    if work.failures:
        lines = (f'{run}: {why}' for run, why in work.failures.items())
        print(f'{len(work.failures)} failed:', *lines, sep='\n', flush=True)
    return work.failures


def check_gpus(settings: RunSettings) -> None:
    """Raise ValueError where there are fewer GPUs than a training wants: it would take the CPU."""
    there = torch.cuda.device_count()
    if settings.gpus > there and 'slurm' not in settings.launcher:
        there_are = f'gpus must be <= {there}, the number that is visible, or 0 for the CPU'
        raise ValueError(f'{there_are}, got {settings.gpus}')


@dataclass
class _Work:
    """The experiments that are not over, for the threads that run them, and why some failed."""

    waiting: list[Experiment]
    jobs: int
    environment: dict[str, str] = field(default_factory=lambda: dict(os.environ))
    slots: dict[Experiment, int] = field(default_factory=dict)  # of this process, that runs each
    elsewhere: set[Experiment] = field(default_factory=set)  # other processes run them
    failures: dict[str, str] = field(default_factory=dict)

    def run(self, slot: int) -> None:
        """Run those that are free, one after another, until all are over."""
        while self.waiting:
            if not any(self._take(experiment, slot) for experiment in [*self.waiting]):
                time.sleep(0.5)

    def _take(self, experiment: Experiment, slot: int) -> bool:
        """Run an experiment, unless it waits for another one, or a thread or process runs it."""
        if experiment.after in self.waiting or self.slots.setdefault(experiment, slot) != slot:
            return False
        try:
            experiment.settings.work_dir.mkdir(parents=True, exist_ok=True)
            with (lock := experiment.lock).acquire(timeout=0):
                self._over(experiment, self._complete(experiment, lock, slot))
        except Timeout:
            if experiment not in self.elsewhere:
                _say(f'{experiment.run}: another process runs it')
            self.elsewhere.add(experiment)
            del self.slots[experiment]
            return False
        except OSError as error:
            self._over(experiment, f'{error}')
        return True

    def _over(self, experiment: Experiment, why: str | None) -> None:
        if why is not None:
            _say(f'FAILED {experiment.run}: {why}')
            self.failures[experiment.run] = why
        self.waiting.remove(experiment)

    def _complete(self, experiment: Experiment, lock: FileLock, slot: int) -> str | None:
        """Run what is missing of an experiment; the line that says why it failed."""
        there = ', its result is there'
        try:
            experiment.prepare()
            experiment.check()
            for command in experiment.missing():
                there = ''
                self._execute(experiment, command, lock, slot)
            metrics = experiment.result()
            if metrics is None:
                raise ValueError('no result: nothing at all was detected')
            _say(f'{experiment.run}: AP {ap_of(metrics):.1f}{there}')
        except Exception as error:
            return _reason(experiment, error)
        return None

    def _execute(
        self, experiment: Experiment, command: list[str], lock: FileLock, slot: int
    ) -> None:
        environment = {**experiment.settings.environment, **self._gpus(experiment.settings, slot)}
        variables = {**self.environment, **environment}
        if experiment.settings.gpus == 0:
            variables.setdefault('OMP_NUM_THREADS', str(max(1, (os.cpu_count() or 1) // self.jobs)))
        _say(f'{experiment.run}: {_words(command)}, see {experiment.log}')
        with open(experiment.log, 'a', encoding='utf-8') as log:
            print(shell_line(command, environment), file=log, flush=True)
            # Their standard input: no other descriptor is passed on by all that MIM starts.
            held = lock._context.lock_file_fd
            run_command(command, log, variables, held, experiment.watch)

    def _gpus(self, settings: RunSettings, slot: int) -> dict[str, str]:
        """Those of a job beside others, in turns."""
        if self.jobs == 1 or settings.gpus == 0 or 'slurm' in settings.launcher:
            return {}
        numbers = map(str, range(torch.cuda.device_count()))
        visible = self.environment.get('CUDA_VISIBLE_DEVICES', ','.join(numbers)).split(',')
        first = slot * settings.gpus
        chosen = (visible[number % len(visible)] for number in range(first, first + settings.gpus))
        return {'CUDA_VISIBLE_DEVICES': ','.join(chosen)}


def _reason(experiment: Experiment, error: Exception) -> str:
    """In one line, why an experiment failed."""
    reason = str(error) or type(error).__name__
    if isinstance(error, subprocess.CalledProcessError):
        found = last_error(tail(experiment.log))
        ended = f'ended with exit status {error.returncode}{f", {found}" if found else ""}'
        reason = f'{_words(error.cmd)} {ended}, see {experiment.log}'
    if shutil.disk_usage(experiment.settings.work_dir).free < FULL:
        reason = f'the disk of {experiment.settings.work_dir} is full: {reason}'
    return ' '.join(reason.split())


def _say(line: str) -> None:
    # In one piece: threads print, too.
    print(f'{line}\n', end='', flush=True)


def _words(command: list[str]) -> str:
    """What a command `python -m ...` does, as `mim train`."""
    return ' '.join(command[2:4])
