"""One measure over time, with what chance would give and how far the sketch can be off."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False)
class Series:
    """name: "policy.turn", "between.updates", ...; see `measures`.
    title, meaning: a heading, and one plain sentence of what it says.
    networks: those it is about. layer: None for all layers.
    order: int64 [m], of the snapshot at which each value is complete (`Track.order`).
    phases, steps: of that snapshot, m of each.
    values: fp64 [m]: cosines in [-1, 1], shares in [0, 1], or NaN where there is none (yet).
    error: fp64 [m], standard error that the sketch adds to each.
    chance: the expected value for random vectors of as many elements, as the sketch shows it.
    low, high: where 95 % of random vectors' values lie.
    """

    name: str
    title: str
    meaning: str
    networks: tuple[str, ...]
    layer: str | None
    order: np.ndarray
    phases: tuple[str, ...]
    steps: np.ndarray
    values: np.ndarray
    error: np.ndarray
    chance: float
    low: float
    high: float

    @property
    def degrees(self) -> np.ndarray:
        """Angles of a series of cosines: fp64 [m], 0 to 180."""
        return np.degrees(np.arccos(np.clip(self.values, -1.0, 1.0)))
