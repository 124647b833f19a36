"""Means with 95 % bootstrap intervals over items."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch


class Interval(NamedTuple):
    """A mean over n items and the ends of its 95 % interval, in the values' own unit."""

    mean: float
    low: float
    high: float
    n: int


def bootstrap(values: Sequence[float], resamples: int = 2000, seed: int = 0) -> Interval:
    """Mean of the values and its 95 % percentile-bootstrap interval over the items.

    Deterministic: draws come from a generator of its own, not from torch's global one. For a
    comparison of two systems on the same items, pass the items' differences. Raises ValueError
    when there are no values.
    """
    if not len(values):
        raise ValueError("values is empty; an interval needs at least one item.")
    data = torch.as_tensor(values, dtype=torch.float64)
    draws = torch.Generator().manual_seed(seed)
    means = torch.empty(resamples, dtype=torch.float64)
    for i in range(resamples):  # one resample at a time: memory stays at one row of indices
        means[i] = data[torch.randint(len(data), (len(data),), generator=draws)].mean()
    low, high = torch.quantile(means, torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return Interval(data.mean().item(), low, high, len(data))
