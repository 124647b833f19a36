"""A run as the measures see it: for each network, sketched positions over time."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

from .names import HEAD, in_order


@dataclass(frozen=True, eq=False)
class Track:
    """One network's way: n snapshots, in the order of time. Positions are sketches of
    theta - theta_0, theta_0 being the weights of the first snapshot, whose position is 0.

    network: "policy" or "reward" (of checkpoints made elsewhere: as the caller names it).
    order: int64 [n], ranks in time among the snapshots of all networks of the run.
    phases: n names of phases ("0.policy", "reward"; of checkpoints: "").
    steps: int64 [n], optimizer steps of the phase before the snapshot.
    seconds: fp64 [n], when it was taken, seconds since 1970.
    layers: L names, "layers.0" and on, "embed_tokens", "head", ...
    numels: int64 [L], elements of each layer.
    shapes: of each tensor by its canonical name.
    whole: fp64 [n, dim], of all layers but the head.
    by_layer: fp64 [n, L, layer_dim].
    sums: fp64 [n, L], sums of theta - theta_0 over each layer's elements, exact.
    """

    network: str
    order: np.ndarray
    phases: tuple[str, ...]
    steps: np.ndarray
    seconds: np.ndarray
    layers: tuple[str, ...]
    numels: np.ndarray
    shapes: dict[str, tuple[int, ...]]
    whole: np.ndarray
    by_layer: np.ndarray
    sums: np.ndarray

    def __len__(self) -> int:
        return len(self.order)

    def _row(self, layer: str) -> int:
        if layer not in self.layers:
            known = ", ".join(self.layers)
            raise ValueError(f"layer={layer!r} is not in the {self.network}: use one of {known}")
        return self.layers.index(layer)

    def positions(self, layer: str | None = None) -> np.ndarray:
        """fp64 [n, dim] in all, or [n, layer_dim] of one layer (ValueError if there is none)."""
        return self.whole if layer is None else self.by_layer[:, self._row(layer)]

    def numel(self, layer: str | None = None) -> int:
        """Elements of a layer, or of all but the head."""
        if layer is not None:
            return int(self.numels[self._row(layer)])
        return int(sum(n for name, n in zip(self.layers, self.numels) if name != HEAD))

    def sum(self, layer: str | None = None) -> np.ndarray:
        """fp64 [n]: sums of theta - theta_0 over a layer's elements, or all but the head's."""
        if layer is not None:
            return self.sums[:, self._row(layer)]
        return self.sums[:, [name != HEAD for name in self.layers]].sum(axis=1)

    @property
    def iterations(self) -> np.ndarray:
        """int64 [n]: the iteration of each snapshot's phase; -1 before the first one."""
        found = [re.match(r"(\d+)\.", phase) for phase in self.phases]
        return np.array([int(f[1]) if f else -1 for f in found], dtype=np.int64)


@dataclass(frozen=True, eq=False)
class Tracks:
    """The tracks of a run by network, and where they come from."""

    source: str
    networks: dict[str, Track]
    dim: int
    layer_dim: int

    def __getitem__(self, network: str) -> Track:
        if network not in self.networks:
            known = ", ".join(self.networks)
            raise ValueError(f"{self.source!r} has no sketches of the {network}: it has {known}")
        return self.networks[network]

    def __contains__(self, network: str) -> bool:
        return network in self.networks

    @property
    def layers(self) -> list[str]:
        """Names of the layers of any network, in order."""
        return in_order({name for track in self.networks.values() for name in track.layers})

    def resolution(self, layer: str | None = None) -> int:
        """Numbers of the sketch: 1 / sqrt of it is the standard error of a small cosine."""
        return self.dim if layer is None else self.layer_dim
