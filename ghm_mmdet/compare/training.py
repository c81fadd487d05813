"""The training of an arm, and what it comes to."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from ..experiments import logs
from ..experiments.experiment import Experiment

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
        return [point(*validation) for validation in logs.validations(self.folder)]

    def entry(self, failures: Mapping[str, str]) -> dict[str, Any]:
        """What `results.json` has of it; `failures` are those of this process."""
        why = self.lost() or failures.get(self.run)
        state = 'failed' if why else 'done' if self.is_trained() else 'missing'
        return dict(
            arm=self.name, seed=self.seed, why=why, curve=self.curve(), folder=self.run,
            state='running' if state == 'missing' and self.is_running() else state,
            seconds_per_iteration=logs.time_and_gpu(self.folder)[0],
        )  # fmt: skip


def point(iteration: int, metrics: Mapping[str, float]) -> dict[str, Any]:
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
