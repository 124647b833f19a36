"""Ways in two or three dimensions: PCA, t-SNE and UMAP of sketched positions."""

from __future__ import annotations

import importlib.util

import numpy as np

from .tracks import Tracks
from .updates import comparable

METHODS = ("pca", "tsne", "umap")
_NEEDS = {"pca": ("sklearn", "scikit-learn"), "tsne": ("sklearn", "scikit-learn"),
          "umap": ("umap", "umap-learn")}  # fmt: skip
FEWEST = 3  # points


def trajectory_methods() -> dict[str, str]:
    """Name of each method and "available", or which package it needs."""
    return {
        name: "available" if importlib.util.find_spec(module) else f"needs `pip install {package}`"
        for name, (module, package) in _NEEDS.items()
    }


def trajectory(
    tracks: Tracks,
    method: str = "pca",
    dims: int = 2,
    layer: str | None = None,
    seed: int = 0,
) -> dict[str, np.ndarray]:
    """Points, fp64 [n, dims], of each network's snapshots, all embedded together.

    method: "pca" (scikit-learn; straight axes, distances comparable), "tsne" (scikit-learn) or
    "umap" (umap-learn): neighbourhoods kept, distances not. dims: 2 or 3. Both networks begin at
    the origin of the positions. Networks that lack the layer are left out.
    Raises ValueError for an unknown method, dims, layer, or fewer than three snapshots in all;
    ImportError, one sentence, where the method's package is missing.
    """
    if method not in METHODS:
        raise ValueError(f"method={method!r} is not known: use one of {', '.join(METHODS)}")
    if dims not in (2, 3):
        raise ValueError(f"dims={dims!r} is not allowed: use 2 or 3")
    state = trajectory_methods()[method]
    if state != "available":
        raise ImportError(f"method={method!r} {state}")
    used = {n: t for n, t in tracks.networks.items() if layer is None or layer in t.layers}
    if not used:
        raise ValueError(f"layer={layer!r} is in no network: use one of {', '.join(tracks.layers)}")
    if {"policy", "reward"} <= set(used):
        comparable(tracks, layer, ("policy", "reward"))
    points = np.concatenate([t.positions(layer) for t in used.values()])
    if len(points) < FEWEST:
        raise ValueError(
            f"there are {len(points)} snapshots, and a trajectory takes {FEWEST}: train on, or "
            "sketch more often (zo_sketch_every)"
        )
    scale = np.abs(points).max()
    flat = _embedded(points / scale if scale > 0 else points, method, dims, seed)
    if method == "pca":
        flat = flat * scale  # in the units of the weights
    ends = np.cumsum([len(t) for t in used.values()])[:-1]
    return dict(zip(used, np.split(flat, ends)))


def _embedded(points: np.ndarray, method: str, dims: int, seed: int) -> np.ndarray:
    neighbours = min(15, len(points) - 1)
    if method == "pca":
        from sklearn.decomposition import PCA

        dims_there = min(dims, len(points) - 1)
        found = PCA(dims_there, random_state=seed).fit_transform(points)
        return np.pad(found, ((0, 0), (0, dims - dims_there)))
    if method == "tsne":
        from sklearn.manifold import TSNE

        perplexity = max(1.0, min(30.0, (len(points) - 1) / 3))
        return TSNE(dims, perplexity=perplexity, init="random", random_state=seed).fit_transform(
            points
        ).astype(np.float64)  # fmt: skip
    from umap import UMAP

    return UMAP(
        n_components=dims, n_neighbors=max(2, neighbours), init="random", random_state=seed
    ).fit_transform(points).astype(np.float64)  # fmt: skip
