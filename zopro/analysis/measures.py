"""Measures over time, per layer and in all, from sketches: cosines and shares explained.

    <network>.turn                cosine of each update with the one before it
    <network>.previous            share of each update that the one before it explains (cosine^2)
    <network>.iteration           share explained by the network's update over the last iteration,
                                  the `prev` of the targeted direction (arXiv 2503.03460)
    policy.reward                 share of the policy's updates explained by the reward model's over
                                  the last iteration, the `v` of the targeted direction
    between.updates               cosine of the policy's and the reward model's update over each
                                  iteration
    between.pearson               Pearson correlation of these two, element by element
    between.positions             cosine of the two networks' ways from their starts, at each
                                  snapshot of either

An update lies between two snapshots. "Explained" is the squared length of the projection over the
squared length. A random vector of N elements explains 1/N of another; its sketch of D numbers
1/N + 1/D, which is `Series.chance`: below some times 1/D a sketch shows nothing.
"""

from __future__ import annotations

import numpy as np

from .series import Series
from .tracks import Track, Tracks
from .updates import Updates, between_snapshots, comparable, of_iterations

PAIR = ("policy", "reward")
STORED = 2e-4  # what int16 adds to a cosine where an update is a fifth of the way from the start


def measure(tracks: Tracks, layer: str | None = None) -> list[Series]:
    """Every series that the tracks have data for, in the order of the list above.

    layer: one of `tracks.layers`, or None for all but the head. A network that lacks the layer, or
    has a single snapshot, gives none. Raises ValueError where no network has two snapshots, or
    policy and reward model have tensors of other names or shapes (adapters of differing rank).
    """
    found: list[Series] = []
    usable = [t for t in tracks.networks.values() if layer is None or layer in t.layers]
    if not usable:
        raise ValueError(f"layer={layer!r} is in no network: use one of {', '.join(tracks.layers)}")
    if all(len(t) < 2 for t in usable):
        between_snapshots(usable[0])  # says what is missing
    for track in usable:
        if len(track) > 1:
            found += _of_one(tracks, track, layer)
    if all(any(t.network == n for t in usable) for n in PAIR):
        comparable(tracks, layer, PAIR)
        found += _between(tracks, layer)
    return [s for s in found if len(s.values)]


def _of_one(tracks: Tracks, track: Track, layer: str | None) -> list[Series]:
    updates, name = between_snapshots(track, layer), track.network
    turns = cosines(updates.sketched[1:], updates.sketched[:-1])
    make = _Maker(tracks, layer, track)
    numbers, whole = of_iterations(track, layer)
    before = _last_iteration(track, updates, numbers, whole)
    return [
        make.cosine(
            f"{name}.turn", "Does it keep its direction?",
            f"Cosine of each update of the {name} with the one before it: 1 goes straight on, 0 "
            "turns at a right angle, -1 goes back.", updates.at[1:], turns,
        ),
        make.share(
            f"{name}.previous", "How much does the last update explain?",
            f"Share of each update of the {name} that lies along the one before it.",
            updates.at[1:], turns,
        ),
        make.share(
            f"{name}.iteration", "How much does the last iteration explain?",
            f"Share of each update of the {name} that lies along its update over the iteration "
            "before, which aims the targeted directions.", updates.at, before,
        ),
    ]  # fmt: skip


def _last_iteration(
    track: Track, updates: Updates, numbers: list[int], whole: Updates
) -> np.ndarray:
    """fp64 [m]: cosine of each update with `whole` of the iteration before its own; NaN if none."""
    at = {number: row for row, number in enumerate(numbers)}
    out = np.full(len(updates.at), np.nan)
    for k, index in enumerate(updates.at):
        row = at.get(int(track.iterations[index]) - 1)
        if row is not None:
            out[k] = cosines(updates.sketched[k : k + 1], whole.sketched[row : row + 1])[0]
    return out


def _between(tracks: Tracks, layer: str | None) -> list[Series]:
    policy, reward = (tracks[n] for n in PAIR)
    out: list[Series] = []
    p_numbers, p = of_iterations(policy, layer)
    r_numbers, r = of_iterations(reward, layer)
    make = _Maker(tracks, layer, policy, PAIR)
    if len(policy) > 1:
        updates = between_snapshots(policy, layer)
        out.append(make.share(
            "policy.reward", "How much does the reward model's update explain?",
            "Share of each update of the policy that lies along the reward model's over the "
            "iteration before.", updates.at,
            _last_iteration(policy, updates, r_numbers, r),
        ))  # fmt: skip
    both = [n for n in p_numbers if n in r_numbers]
    i, j = [p_numbers.index(n) for n in both], [r_numbers.index(n) for n in both]
    c = cosines(p.sketched[i], r.sketched[j])
    out.append(make.cosine(
        "between.updates", "Do policy and reward model move alike?",
        "Cosine of what the policy and what the reward model moved over each iteration: 0 is at a "
        "right angle.", p.at[i], c,
    ))  # fmt: skip
    out.append(make.cosine(
        "between.pearson", "Are their changes correlated?",
        "Pearson correlation, over the elements, of what the policy and what the reward model "
        "changed over each iteration.", p.at[i],
        pearson(c, *(_means(u, rows, policy.numel(layer)) for u, rows in ((p, i), (r, j)))),
    ))  # fmt: skip
    at, c = _positions(policy, reward, layer)
    out.append(make.cosine(
        "between.positions", "Are they on the same way?",
        "Cosine of the policy's and the reward model's ways from their starts.", at, c,
    ))  # fmt: skip
    return out


def _positions(policy: Track, reward: Track, layer: str | None) -> tuple[np.ndarray, np.ndarray]:
    """(indices of the policy's snapshots, cosines with the reward's last position by then)."""
    before = np.searchsorted(reward.order, policy.order, side="right") - 1
    x, y = policy.positions(layer), reward.positions(layer)[before.clip(0)]
    moved = (before >= 0) & (np.abs(x).max(axis=1) > 0) & (np.abs(y).max(axis=1) > 0)
    return np.nonzero(moved)[0], cosines(x[moved], y[moved])


def cosines(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """fp64 [m]: of the rows of x and y, [m, d], none of them 0."""
    lengths = np.linalg.norm(x, axis=1) * np.linalg.norm(y, axis=1)
    return np.clip((x * y).sum(axis=1) / lengths, -1.0, 1.0)


def pearson(cosine: np.ndarray, mean_x: np.ndarray, mean_y: np.ndarray) -> np.ndarray:
    """Pearson's correlation from the cosine and the ratios mean / root mean square of both."""
    left = np.sqrt(np.clip((1 - mean_x**2) * (1 - mean_y**2), 1e-300, None))
    return np.clip((cosine - mean_x * mean_y) / left, -1.0, 1.0)


def _means(updates: Updates, rows: list[int], numel: int) -> np.ndarray:
    rms = np.linalg.norm(updates.sketched[rows], axis=1) / numel**0.5
    return np.clip(updates.sums[rows] / numel / rms, -1.0, 1.0)


class _Maker:
    """Series of one layer, with chance and error from the numbers of elements and of the sketch."""

    def __init__(self, tracks: Tracks, layer: str | None, track: Track,
                 networks: tuple[str, ...] | None = None) -> None:  # fmt: skip
        self._track, self._layer = track, layer
        self._networks = networks or (track.network,)
        self._dim = tracks.resolution(layer)
        self._spread = 1.0 / track.numel(layer) + 1.0 / self._dim  # variance of a random cosine

    def cosine(self, name: str, title: str, meaning: str, at: np.ndarray, c: np.ndarray) -> Series:
        reach = 1.96 * self._spread**0.5
        error = self._error(c)
        return self._series(name, title, meaning, at, c, error, 0.0, -reach, reach)

    def share(self, name: str, title: str, meaning: str, at: np.ndarray, c: np.ndarray) -> Series:
        """Of cosines c, NaN where there is none: c^2. Its error is that of c^2 about c = 0 too."""
        kept = ~np.isnan(c)
        at, c = at[kept], c[kept]
        one = self._error(c)
        error = np.sqrt((2 * c * one) ** 2 + 2 * one**4)
        chance = self._spread
        return self._series(name, title, meaning, at, c**2, error, chance, 0.0, 3.84 * chance)

    def _error(self, c: np.ndarray) -> np.ndarray:
        return (1 - c**2) / self._dim**0.5 + STORED

    def _series(self, name: str, title: str, meaning: str, at: np.ndarray, *numbers) -> Series:
        at = np.asarray(at, dtype=np.int64)
        track = self._track
        return Series(
            name, title, meaning, self._networks, self._layer, track.order[at],
            tuple(track.phases[k] for k in at), track.steps[at], *numbers,
        )  # fmt: skip
