"""Histograms of gradient norms over a training, and their file."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

#: The order of the first dimension of all sums: classification, regression.
KINDS = ('cls', 'reg')
#: The order of the second: the number of examples, the sum of their gradient norms.
SUMS = ('counts', 'gradient')


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
    - `cls_gradient`, `reg_gradient`, float64 (T, B): sums of their g and gr.

    Attributes:
        iteration: Shape (T,), ascending.
        mu: Shape (T,): the mean μ of each row.
        sums: Shape (T, 2, 2, B), `KINDS` by `SUMS`.
    """

    iteration: np.ndarray
    mu: np.ndarray
    sums: np.ndarray

    @classmethod
    def empty(cls, bins: int) -> GradientDensityRecord:
        """A record of B bins without rows."""
        return cls(np.zeros(0, np.int64), np.zeros(0), np.zeros((0, len(KINDS), len(SUMS), bins)))

    @property
    def bins(self) -> int:
        """B, the number of bins."""
        return self.sums.shape[-1]

    @property
    def edges(self) -> np.ndarray:
        """The edges of the bins, shape (B + 1,)."""
        return np.linspace(0, 1, self.bins + 1)

    def append(self, iteration: int, sums: np.ndarray, mu: float) -> None:
        """Add the row of a `GradientNormObserver`'s sums, shape (2, 2, B), after an iteration."""
        self.iteration = np.append(self.iteration, iteration)
        self.mu = np.append(self.mu, mu)
        self.sums = np.concatenate([self.sums, sums[None]])

    def until(self, iteration: int) -> GradientDensityRecord:
        """The rows of the first `iteration` iterations."""
        kept = self.iteration <= iteration
        return GradientDensityRecord(self.iteration[kept], self.mu[kept], self.sums[kept])

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
        arrays: dict[str, Any] = {
            f'{kind}_{name}': self.sums[:, i, j].astype(np.int64 if name == 'counts' else float)
            for i, kind in enumerate(KINDS)
            for j, name in enumerate(SUMS)
        }
        with open(partial_file := path.with_name(f'{path.name}.partial'), 'wb') as file:
            np.savez_compressed(
                file, iteration=self.iteration, edges=self.edges, mu=self.mu, **arrays
            )
        os.replace(partial_file, path)

    @classmethod
    def load(cls, path: str | Path) -> GradientDensityRecord:
        """Read a file.

        Raises:
            FileNotFoundError: There is none.
            ValueError: An array is missing.
        """
        with np.load(path) as file:
            arrays = dict(file)
        names = [f'{kind}_{name}' for kind in KINDS for name in SUMS]
        missing = {'iteration', 'mu', *names} - set(arrays)
        if missing:
            raise ValueError(f'{path} is no record of GradientDensityHook: no {sorted(missing)}')
        sums = np.stack([arrays[name].astype(float) for name in names], axis=1)
        shape = (len(sums), len(KINDS), len(SUMS), sums.shape[-1])
        mu = np.broadcast_to(arrays['mu'], len(sums))
        return cls(arrays['iteration'], mu, sums.reshape(shape))


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
