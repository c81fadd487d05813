"""Gradient density: how many examples have a similar gradient norm (Eqs. 4-6 and 9)."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from ..checks import check_choice, check_count, check_positive
from ..ops.precision import at_least_float32
from ..ops.regions import assign_regions, count_regions
from .checks import check_floating, check_same_shape

DENSITY_METHODS = ('auto', 'sort', 'histogram')

#: Bins of the fine histogram: as many as a signed 16-bit index can tell apart.
MAX_FINE_BINS = 2**15 - 1
#: q below which 'auto' sorts: a window is off by at most 1/q of its length.
MIN_BINS_OF_HALF_WINDOW = 64
#: Number of examples up to which 'auto' sorts.
SORTED_AT_MOST = 1 << 17


def region_gradient_density(g: Tensor, bins: int, valid: Tensor | None = None) -> Tensor:
    """Eq. 9: `ĜD(g) = R_ind(g) · M`, the density in the unit region of g.

    Args:
        g: Gradient norms in [0, 1], any shape, floating point.
        bins: M, the number of unit regions.
        valid: Bool, the shape of `g`; the others are not counted. None counts all.

    Returns:
        The density, at least float32, the shape of `g`; 0 for an example that is not valid.

    Raises:
        TypeError: `g` is not a floating-point tensor, `bins` not an int.
        ValueError: `bins` < 1, or `valid` has another shape.

    Examples:
        >>> g = torch.tensor([0.05, 0.02, 0.03, 0.95])
        >>> region_gradient_density(g, bins=10)
        tensor([30., 30., 30., 10.])
    """
    check_floating('g', g)
    check_count('bins', bins)
    if valid is not None:
        check_same_shape('valid', valid, 'g', g)
    g = at_least_float32(g)
    regions = assign_regions(g, bins, None if valid is None else valid.bool())
    counts = count_regions(regions, bins).to(g.dtype)
    return torch.cat([counts * bins, counts.new_zeros(1)])[regions]


def exact_gradient_density(
    g: Tensor, epsilon: float, valid: Tensor | None = None, *, method: str = 'auto'
) -> Tensor:
    """Eqs. 4-6: `GD(g) = (1/l_ε(g)) Σ_k δ_ε(g_k, g)`.

    δ is 1 for `g - ε/2 <= g_k < g + ε/2` (Eq. 5) and `l_ε(g)` is the length of that window
    clipped to [0, 1] (Eq. 6).

    'sort' counts exactly, in O(N log N). 'histogram' takes O(N): g stands for the centre of its
    bin of width h = ε/2q, see `fine_bins`, and the result is that of windows whose half
    length is between ε/2 - h and ε/2 + h (a hundredth of h more for the rounding of float32),
    divided by a length that is off by at most h/2. 2h/ε = 1/q is 0.2 % for ε = 1/30.

    Args:
        g: Gradient norms in [0, 1], any shape, floating point.
        epsilon: ε, the length of the window, in (0, 1]; 1/M for comparison with M regions.
        valid: Bool, the shape of `g`; the others are not counted. None counts all.
        method: 'sort', 'histogram', or 'auto': the histogram where `prefers_fine_bins`.

    Returns:
        The density, at least float32, the shape of `g`.

    Raises:
        TypeError: `g` is not a floating-point tensor, `epsilon` not a number.
        ValueError: `epsilon` is not > 0, or too small for a histogram; `valid` has another
            shape; `method` is not among the allowed.

    Examples:
        >>> exact_gradient_density(torch.tensor([0.05, 0.5, 0.52]), epsilon=0.1)
        tensor([10.0000, 20.0000, 20.0000])
    """
    check_floating('g', g)
    check_positive('epsilon', epsilon)
    check_choice('method', method, DENSITY_METHODS)
    if valid is not None:
        check_same_shape('valid', valid, 'g', g)
    g = at_least_float32(g)
    if method == 'histogram' or (method == 'auto' and prefers_fine_bins(g, epsilon)):
        return _density_by_histogram(g, epsilon, valid)
    counted = g if valid is None else _valid_only(g, valid.bool())
    ordered = counted.flatten().sort().values
    lower, upper = g - epsilon / 2, g + epsilon / 2
    inside = torch.searchsorted(ordered, upper) - torch.searchsorted(ordered, lower)
    length = upper.clamp(max=1) - lower.clamp(min=0)
    return inside / length


def _valid_only(g: Tensor, valid: Tensor) -> Tensor:
    """The valid g, and beyond every window the others where leaving them out waits for a device."""
    return g[valid] if g.device.type == 'cpu' else g.where(valid, math.inf)


def prefers_fine_bins(g: Tensor, epsilon: float) -> bool:
    """Whether 'auto' takes the histogram: where sorting is slow and a bin is short beside ε.

    Float64 is sorted always, for it is asked for where exactness counts.
    """
    return (
        g.dtype != torch.float64
        and g.numel() > SORTED_AT_MOST
        and MAX_FINE_BINS * epsilon / 2 >= MIN_BINS_OF_HALF_WINDOW
    )


def fine_bins(epsilon: float) -> tuple[int, int]:
    """The number of bins of the fine histogram, and q, the bins of half a window ε/2."""
    half = int(MAX_FINE_BINS * min(epsilon, 1) / 2 + 1e-6)
    if half < 1:
        raise ValueError(
            f'epsilon must be >= {2 / MAX_FINE_BINS:.1e} for a histogram, got {epsilon!r}'
        )
    return math.ceil(2 * half / epsilon - 1e-6), half


def fine_gradient_density(counts: Tensor, half: int, epsilon: float) -> Tensor:
    """GD at the centre of each fine bin, from prefix sums over the histogram.

    Of the two bins in which the window ends, half is counted.

    Args:
        counts: Examples of each bin, shape (K,), integer.
        half: q, the bins of half a window.
        epsilon: ε.

    Returns:
        Float64 of shape (K,).
    """
    sums = F.pad(counts.cumsum(0), (1, 0)).double()
    j = torch.arange(len(counts), device=counts.device)

    def below(edge: Tensor) -> Tensor:
        return sums[edge.clamp(0, len(counts))]

    outer = below(j + half + 1) - below(j - half)
    inner = below(j + half) - below(j - half + 1)
    center = (j + 0.5) * (epsilon / (2 * half))
    length = (center + epsilon / 2).clamp(max=1) - (center - epsilon / 2).clamp(min=0)
    return (outer + inner) / 2 / length


def _density_by_histogram(g: Tensor, epsilon: float, valid: Tensor | None) -> Tensor:
    bins, half = fine_bins(epsilon)
    index = (g * (2 * half / epsilon)).clamp(max=bins - 1).nan_to_num(nan=bins).int()
    counted = index if valid is None else index.where(valid.bool(), bins)
    counts = count_regions(counted, bins)
    density = fine_gradient_density(counts, half, epsilon).to(g.dtype)
    density = torch.cat([density, density.new_full((1,), math.nan)])
    return density.index_select(0, index.flatten()).view(g.shape)
