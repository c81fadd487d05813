"""Histograms of gradient norms over a training, and their file."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

RECORD_FILE = 'gradient_density.npz'
#: Of the file. What has none is of version 1, which has neither `training` nor `settings`.
VERSION = 2
#: The order of the first dimension of all sums: classification, regression.
KINDS = ('cls', 'reg')
#: The order of the second: the number of examples, the sum of their gradient norms.
SUMS = ('counts', 'gradient')
#: The arrays of the sums in the file, in that order.
ARRAYS = [f'{kind}_{name}' for kind in KINDS for name in SUMS]


@dataclass
class GradientDensityRecord:
    """Histograms of g and gr over a training, as `GradientDensityHook` writes them.

    The .npz holds, for T rows and B bins:

    - `iteration`, int64 (T,): iterations done when the row was written;
    - `edges`, float64 (B + 1,): edges of the bins, from 0 to 1;
    - `mu`, float64 (T,): the mean μ of gr over the offsets of the row, in units of the encoded
      offsets; NaN in a row without any. A scalar, of all rows, is read, too;
    - `cls_counts`, `reg_counts`, int64 (T, B): number of valid logits by g (Eq. 3), of valid
      offsets by gr (Eq. 18), over all calls, recorded iterations and processes of the row;
    - `cls_gradient`, `reg_gradient`, float64 (T, B): sums of their g and gr;
    - `training` and `settings`, strings as below, and `version`, an int.

    Attributes:
        iteration: Shape (T,), ascending.
        mu: Shape (T,): the mean μ of each row.
        sums: Shape (T, 2, 2, B), `KINDS` by `SUMS`.
        training: What identifies the training, in its checkpoints, too. Default: ''.
        settings: Those of the hook. Default: ''.
    """

    iteration: np.ndarray
    mu: np.ndarray
    sums: np.ndarray
    training: str = ''
    settings: str = ''

    @classmethod
    def empty(cls, bins: int, training: str = '', settings: str = '') -> GradientDensityRecord:
        """A record of B bins without rows."""
        sums = np.zeros((0, len(KINDS), len(SUMS), bins))
        return cls(np.zeros(0, np.int64), np.zeros(0), sums, training, settings)

    @property
    def bins(self) -> int:
        """B, the number of bins."""
        return self.sums.shape[-1]

    def append(self, iteration: int, sums: np.ndarray, mu: float) -> None:
        """Add the row of a `GradientNormObserver`'s sums, shape (2, 2, B), after an iteration."""
        self.iteration = np.append(self.iteration, iteration)
        self.mu = np.append(self.mu, mu)
        self.sums = np.concatenate([self.sums, sums[None]])

    def until(self, iteration: int) -> GradientDensityRecord:
        """The rows of the first `iteration` iterations."""
        at = self.iteration <= iteration
        return replace(self, iteration=self.iteration[at], mu=self.mu[at], sums=self.sums[at])

    def histogram(self, kind: str, rows: int = 1) -> tuple[np.ndarray, np.ndarray]:
        """The sum of the last rows of 'cls' or 'reg', as float64 of shape (B,) each.

        Returns:
            Number of examples and sum of their gradient norms.
        """
        counts, gradient = self.sums[-rows:, KINDS.index(kind)].sum(0)
        return counts, gradient

    def mean_mu(self, rows: int = 1) -> float:
        """The mean μ over the offsets of the last rows."""
        return mean_mu(self.mu[-rows:], self.sums[-rows:])

    def save(self, path: str | Path) -> None:
        """Write the file, or replace it in one step."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        sums = self.sums.reshape(-1, len(ARRAYS), self.bins)
        arrays: dict[str, Any] = {name: sums[:, i] for i, name in enumerate(ARRAYS)}
        arrays.update({name: arrays[name].astype(np.int64) for name in ARRAYS[::2]})
        arrays.update(version=VERSION, training=self.training, settings=self.settings)
        arrays.update(iteration=self.iteration, edges=np.linspace(0, 1, self.bins + 1), mu=self.mu)
        with open(partial_file := path.with_name(f'{path.name}.partial'), 'wb') as file:
            np.savez_compressed(file, **arrays)
        os.replace(partial_file, path)

    @classmethod
    def load(cls, path: str | Path) -> GradientDensityRecord:
        """Read a file.

        Raises:
            OSError: It is not there, is a folder, or may not be read.
            ValueError: It is no record, or one of a later version.
        """
        try:
            with np.load(path) as file:
                arrays = dict(file)
            if (version := int(arrays.get('version', 1))) <= VERSION:
                sums = np.stack([arrays[name].astype(float) for name in ARRAYS], axis=1)
                shape = (len(sums), len(KINDS), len(SUMS), sums.shape[-1])
                mu = np.broadcast_to(arrays['mu'], len(sums))
                origin = (str(arrays.get(name, '')) for name in ('training', 'settings'))
                return cls(arrays['iteration'], mu, sums.reshape(shape), *origin)
        except OSError:
            raise
        except Exception:  # whatever NumPy says of a file of another kind
            raise ValueError(f'{path} is no record of gradient densities') from None
        reads = f'this ghm_mmdet reads up to version {VERSION}, update it'
        raise ValueError(f'{path} is a record of version {version}; {reads}')


def mean_mu(mu: Sequence[float] | np.ndarray, sums: Sequence[np.ndarray] | np.ndarray) -> float:
    """The mean of several μ, each of sums of shape (2, 2, B), over all offsets; NaN without any."""
    offsets = np.asarray(sums)[:, 1, 0].sum(-1)
    seen = offsets > 0
    return float(np.average(np.asarray(mu)[seen], weights=offsets[seen])) if seen.any() else np.nan


def in_regions(histogram: np.ndarray, regions: int) -> np.ndarray:
    """Join the bins of a histogram, shape (B,), to M unit regions, shape (M,).

    Raises:
        ValueError: M does not divide B.
    """
    if len(histogram) % regions:
        bins = f'the {len(histogram)} bins of the record'
        raise ValueError(f'regions must divide {bins}, got {regions}')
    return histogram.reshape(regions, -1).sum(1)
