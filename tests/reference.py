"""The paper's equations in float64 NumPy, by brute force: the truth that tests compare with."""

from __future__ import annotations

import numpy as np


def sigmoid(x: np.ndarray) -> np.ndarray:
    return np.where(x >= 0, 1 / (1 + np.exp(-np.abs(x))), 1 - 1 / (1 + np.exp(-np.abs(x))))


def cross_entropy(x: np.ndarray, p_star: np.ndarray) -> np.ndarray:
    """Eq. 1, and its extension to soft targets: -p* log p - (1 - p*) log(1 - p)."""
    return p_star * np.logaddexp(0, -x) + (1 - p_star) * np.logaddexp(0, x)


def one_hot(labels: np.ndarray, num_classes: int) -> np.ndarray:
    """A label outside [0, C) is background: a row of zeros."""
    p_star = np.zeros((len(labels), num_classes))
    for row, label in enumerate(labels):
        if 0 <= label < num_classes:
            p_star[row, label] = 1
    return p_star


def asl1(d: np.ndarray, mu: float) -> np.ndarray:
    """Eq. 17."""
    return np.sqrt(d**2 + mu**2) - mu


def asl1_gradient(d: np.ndarray, mu: float) -> np.ndarray:
    """Eq. 18."""
    return d / np.sqrt(d**2 + mu**2)


def exact_density(g: np.ndarray, epsilon: float, valid: np.ndarray) -> np.ndarray:
    """Eqs. 4-6, one pair of examples after another."""
    counted = g[valid]
    density = np.empty(g.shape)
    for index, center in np.ndenumerate(g):
        delta = (center - epsilon / 2 <= counted) & (counted < center + epsilon / 2)
        length = min(center + epsilon / 2, 1) - max(center - epsilon / 2, 0)
        density[index] = delta.sum() / length
    return density


def region_counts(g: np.ndarray, bins: int, valid: np.ndarray) -> np.ndarray:
    """R_j of the regions [(j-1)/M, j/M), the last one closed."""
    counts = np.zeros(bins)
    for value in g[valid]:
        counts[region_of(value, bins)] += 1
    return counts


def region_of(g: float, bins: int) -> int:
    """ind(g) - 1."""
    for j in range(bins):
        if j / bins <= g < (j + 1) / bins:
            return j
    return bins - 1


def paper_region_loss(
    loss: np.ndarray,
    g: np.ndarray,
    valid: np.ndarray,
    bins: int,
    momentum: float = 0.0,
    average: np.ndarray | None = None,
) -> tuple[float, np.ndarray]:
    """Eqs. 9-13: `Σ L_i / (S_ind(g_i) M)`, and the new S."""
    counts = region_counts(g, bins, valid)
    s = counts if momentum == 0 else momentum * average + (1 - momentum) * counts
    total = 0.0
    for index in zip(*np.nonzero(valid)):
        total += loss[index] / (s[region_of(g[index], bins)] * bins)
    return total, s


def floored_region_loss(
    loss: np.ndarray,
    g: np.ndarray,
    bins: int,
    min_count: float,
    momentum: float,
    average: np.ndarray,
) -> tuple[float, np.ndarray]:
    """`Σ L_i / (max(S_ind(g_i), min_count) n)`, and the new S; an empty region keeps its S."""
    counts = region_counts(g, bins, np.ones(g.shape, bool))
    s = average.copy()
    for j in range(bins):
        if counts[j] > 0:
            s[j] = momentum * average[j] + (1 - momentum) * counts[j]
    total = 0.0
    for index, value in np.ndenumerate(g):
        total += loss[index] / (max(s[region_of(value, bins)], min_count) * (counts > 0).sum())
    return total, s


def exact_loss(loss: np.ndarray, g: np.ndarray, valid: np.ndarray, bins: int) -> float:
    """Eq. 8: `Σ L_i / GD(g_i)`."""
    density = exact_density(g, 1 / bins, valid)
    return float((loss[valid] / density[valid]).sum())


def softmax_cross_entropy(x: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """-log p_y of each row, from which g = 1 - p_y follows."""
    loss = np.empty(len(x))
    for row, label in enumerate(labels):
        loss[row] = np.log(np.exp(x[row] - x[row].max()).sum()) + x[row].max() - x[row, label]
    return loss


def tempered_loss(loss: np.ndarray, s: np.ndarray, avg_factor: float | None = None) -> float:
    """`(1/N) Σ β_i L_i` with `β_i = (N/S_i)^½`; N is the head's `avg_factor`."""
    n = loss.size if avg_factor is None else avg_factor
    return float(((n / s) ** 0.5 * loss).sum() / n)
