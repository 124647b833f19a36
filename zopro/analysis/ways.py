"""One number for a whole run: how alike the ways of policy and reward model are.

Ways are compared at common moments: at each snapshot of either network, the last position of both
by then, from the moment on when both have one.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .tracks import Tracks
from .updates import comparable

FEWEST = 4  # moments: with fewer every arrangement looks alike
DRAWS = 200


@dataclass(frozen=True)
class Score:
    """name: "distance_correlation" or "procrustes". title, meaning: a heading and one sentence.
    value: the score. points: moments it is from. layer: None for all layers.
    chance, low, high: mean and 95 % interval when the reward model's moments are shuffled, which
    breaks the tie between the two in time.
    """

    name: str
    title: str
    meaning: str
    layer: str | None
    value: float
    points: int
    chance: float
    low: float
    high: float


def scores(tracks: Tracks, layer: str | None = None, seed: int = 0) -> list[Score]:
    """Distance correlation (Szekely, Rizzo and Bakirov, 2007; 0 to 1) and Procrustes disparity
    (scipy.spatial.procrustes; 0: the same shape, 1: nothing in common) of the two networks' ways.

    seed: of the shuffles behind `chance`. Raises ValueError where a network or moments are missing
    (one sentence), or the two have other tensors; ImportError without SciPy.
    """
    x, y = common_moments(tracks, layer)
    orders = [np.random.default_rng([seed, k]).permutation(len(y)) for k in range(DRAWS)]
    found = []
    for name, title, meaning, prepare, compare, shuffle in (
        ("distance_correlation", "Distance correlation of the two ways",
         "1 if where one network is tells where the other is, 0 if it tells nothing.",
         _centred, _correlation, lambda b, order: b[order][:, order]),
        ("procrustes", "Procrustes disparity of the two ways",
         "What is left of the difference after the best shift, turn and scaling: 0 for ways of the "
         "same shape, 1 for ways with nothing in common.",
         _spanned, _disparity, lambda b, order: b[order]),
    ):  # fmt: skip
        a, b = prepare(x), prepare(y)
        by_chance = np.array([compare(a, shuffle(b, order)) for order in orders])
        low, high = np.quantile(by_chance, [0.025, 0.975])
        found.append(Score(name, title, meaning, layer, compare(a, b), len(x),
                           float(by_chance.mean()), float(low), float(high)))  # fmt: skip
    return found


def common_moments(tracks: Tracks, layer: str | None = None) -> tuple[np.ndarray, np.ndarray]:
    """(x, y), fp64 [T, d] each: positions of policy and reward model at their common moments.

    Raises ValueError, one sentence, for fewer than 4 moments.
    """
    policy, reward = tracks["policy"], tracks["reward"]
    comparable(tracks, layer, ("policy", "reward"))
    moments = np.union1d(policy.order, reward.order)
    moments = moments[moments >= max(policy.order[0], reward.order[0])]
    if len(moments) < FEWEST:
        raise ValueError(
            f"policy and reward model have {len(moments)} common moments, and their ways compare "
            f"from {FEWEST} on: train on, or sketch more often (zo_sketch_every)"
        )
    at = [np.searchsorted(t.order, moments, side="right") - 1 for t in (policy, reward)]
    x, y = policy.positions(layer)[at[0]], reward.positions(layer)[at[1]]
    for name, z in (("policy", x), ("reward model", y)):
        if not (z != z[0]).any():
            raise ValueError(f"the {name} has not moved, so its way has no shape: train on")
    return x, y


def distance_correlation(x: np.ndarray, y: np.ndarray) -> float:
    """Of T pairs of vectors, [T, d] and [T, e]: Szekely, Rizzo and Bakirov (2007), definition 4."""
    return _correlation(_centred(x), _centred(y))


def _centred(x: np.ndarray) -> np.ndarray:
    """Distances of T points, fp64 [T, T], less the means of rows and columns, plus the mean."""
    from scipy.spatial.distance import pdist, squareform

    distances = squareform(pdist(x))
    means = distances.mean(axis=0)
    return distances - means - means[:, None] + means.mean()


def _correlation(a: np.ndarray, b: np.ndarray) -> float:
    scale = np.sqrt((a * a).mean() * (b * b).mean())
    return float(np.sqrt(max((a * b).mean(), 0.0) / scale)) if scale > 0 else 0.0


def procrustes_disparity(x: np.ndarray, y: np.ndarray) -> float:
    """scipy.spatial.procrustes of T points, [T, d] each."""
    return _disparity(_spanned(x), _spanned(y))


def _disparity(x: np.ndarray, y: np.ndarray) -> float:
    from scipy.spatial import procrustes

    return float(procrustes(x, y)[2])


def _spanned(x: np.ndarray) -> np.ndarray:
    """The T points in coordinates of the space that they span, fp64 [T, min(T, d)]: a turn, which
    does not change the disparity. d is thousands, T tens."""
    u, s, _ = np.linalg.svd(x - x.mean(axis=0), full_matrices=False)
    return u * s
