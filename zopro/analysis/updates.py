"""Updates out of positions: between snapshots, and over whole iterations."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .names import HEAD, layer_of
from .tracks import Track, Tracks


@dataclass(frozen=True, eq=False)
class Updates:
    """m updates of one network, those that moved something.

    at: int64 [m], index in the track of the snapshot that completes each.
    sketched: fp64 [m, d]. sums: fp64 [m], exact sums over the update's elements.
    """

    at: np.ndarray
    sketched: np.ndarray
    sums: np.ndarray


def between_snapshots(track: Track, layer: str | None = None) -> Updates:
    """What each snapshot moved since the one before it; those that moved nothing are left out.

    Raises ValueError for a track of one snapshot.
    """
    if len(track) < 2:
        raise ValueError(
            f"there is one snapshot of the {track.network}, and an update lies between two: train "
            "on, or sketch more often (zo_sketch_every)"
        )
    return _updates(track, layer, np.arange(len(track) - 1), np.arange(1, len(track)))


def of_iterations(track: Track, layer: str | None = None) -> tuple[list[int], Updates]:
    """(iterations, updates): what each iteration moved, from its first snapshot to its last.

    -1 stands for the time before the first iteration. Iterations that moved nothing are left out.
    """
    numbers, firsts, lasts = [], [], []
    for number in np.unique(track.iterations):
        (rows,) = np.nonzero(track.iterations == number)
        numbers.append(int(number))
        firsts.append(rows[0])
        lasts.append(rows[-1])
    moved = _updates(track, layer, np.array(firsts), np.array(lasts))
    kept = [n for n, last in zip(numbers, lasts) if last in moved.at]
    return kept, moved


def _updates(track: Track, layer: str | None, first: np.ndarray, last: np.ndarray) -> Updates:
    positions, sums = track.positions(layer), track.sum(layer)
    sketched = positions[last] - positions[first]
    kept = np.linalg.norm(sketched, axis=1) > 0
    return Updates(last[kept], sketched[kept], (sums[last] - sums[first])[kept])


def comparable(tracks: Tracks, layer: str | None, pair: tuple[str, str]) -> None:
    """ValueError, one sentence, where the two networks' tensors do not correspond."""
    first, second = ({n: s for n, s in tracks[p].shapes.items() if _counts(n, layer)} for p in pair)
    for name in sorted(set(first) | set(second)):
        if (here := first.get(name)) == (there := second.get(name)):
            continue
        if here is None or there is None:
            having, lacking = pair if there is None else pair[::-1]
            raise ValueError(
                f"the {having} has {name!r} and the {lacking} has not: compare networks with the "
                "same trained tensors (the same target_modules)"
            )
        raise ValueError(
            f"{name!r} is {here} in the {pair[0]} and {there} in the {pair[1]}: adapters of "
            "differing rank do not compare, train both with the same"
        )
    if not first:
        raise ValueError(f"layer={layer!r} is in neither network: use one of {tracks.layers}")


def _counts(name: str, layer: str | None) -> bool:
    own = layer_of(name)
    return own == layer if layer is not None else own != HEAD
