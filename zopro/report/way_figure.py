"""The figure of the ways: snapshots in two and three dimensions, by run, layer and projection."""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import Any

import numpy as np

from zopro.analysis import Tracks, trajectory, trajectory_methods

from .curves import Curve, number
from .figures import Figure, shown
from .layers import ALL, COLOURS, SECTION, layers_of, named
from .runs import POLICY, Run

NAMES = {"pca": "PCA", "tsne": "t-SNE", "umap": "UMAP"}
SECONDS = 15.0  # of CPU, for t-SNE and UMAP of single layers; of all together they are made
DIGITS = 6  # of embedded coordinates, to keep the page small


def way_figure(
    found: dict[str, Tracks], runs: dict[str, Run], quick: bool
) -> tuple[Figure, list[str]]:  # fmt: skip
    """(figure, sentences): each run's snapshots, embedded; what could not be. quick: PCA alone."""
    figure = Figure(
        "ways", SECTION, "Ways of policy and reward model",
        "Each point is a snapshot of the weights, near ones are alike; lines go on in time. "
        "Circles: policy, diamonds: reward model; colour is time or reward, dark to bright.",
        x="first direction", y="second direction", kind="ways",
    )  # fmt: skip
    wrong: list[str] = []
    methods = ["pca"] if quick else [n for n, s in trajectory_methods().items() if s == "available"]
    until = time.process_time() + SECONDS
    for key, tracks in found.items():
        for layer in layers_of(tracks):
            for method in methods:
                late = layer != ALL and method != "pca" and time.process_time() > until
                if late:
                    continue
                try:
                    for dims in (2, 3):
                        points = trajectory(tracks, method, dims, named(layer))
                        figure.views[f"{key}/{layer}/{method}/{dims}"] = {
                            "curves": _way_curves(tracks, points, runs[key])
                        }
                except (ValueError, ImportError) as error:
                    wrong.append(f"{error}." if layer == ALL else f"{layer}: {error}.")
                    break
    if figure.views:
        used = list(dict.fromkeys(key.split("/")[2] for key in figure.views))
        layers = dict.fromkeys(name for tracks in found.values() for name in layers_of(tracks))
        figure.choices = [
            ("Run", [(key, key) for key in found]),
            ("Layer", [(name, name) for name in layers]),
            ("Projection", [(m, NAMES[m]) for m in used]),
            ("Axes", [("2", "2-D"), ("3", "3-D")]),
        ]
        live = " Live pages draw PCA alone; `zopro report` draws t-SNE and UMAP too."
        for key, view in figure.views.items():
            view["seen"] = _far(found[key.split("/")[0]]) + (live if quick else _absent())
        figure.seen = next(iter(figure.views.values()))["seen"]
    return figure, list(dict.fromkeys(wrong))


def _absent() -> str:
    lacking = [f"{NAMES[n]} {s}" for n, s in trajectory_methods().items() if s != "available"]
    return f" Not drawn: {'; '.join(lacking)}." if lacking else ""


def _far(tracks: Tracks) -> str:
    told = []
    for name, track in tracks.networks.items():
        far = float(np.linalg.norm(track.positions()[-1]))
        who = "reward model" if name == "reward" else name
        told.append(f"the {who} has moved {shown(far)} in {len(track)} snapshots")
    return f"Euclidean distance from the start, in the weights' units: {'; '.join(told)}."


def _way_curves(tracks: Tracks, points: dict[str, np.ndarray], run: Run) -> list[dict[str, Any]]:
    curves = []
    for name, p in points.items():
        track = tracks[name]
        moments = [f"{phase or name} step {step}" for phase, step in zip(track.phases, track.steps)]
        reward = _rewards(run, track)
        curve = Curve(
            name, _short(p[:, 0]), _short(p[:, 1]), colour=COLOURS.get(name, 2), kind="way",
            text=moments, more={"time": track.order.tolist(), "reward": reward},
        )  # fmt: skip
        if p.shape[1] == 3:
            curve.more["z"] = _short(p[:, 2])
        curves.append(asdict(curve))
    return curves


def _short(values: np.ndarray) -> list[float]:
    return [float(f"{v:.{DIGITS}g}") for v in values]


def _rewards(run: Run, track: Any) -> list[float | None]:
    """The reward last logged by each snapshot; None before the first log."""
    logged = [(number(row.get("seconds")), number(row.get("reward"))) for row in run.of(POLICY)]
    logged = [(at, value) for at, value in logged if at is not None and value is not None]
    out: list[float | None] = []
    for at in track.seconds:
        before = [value for when, value in logged if when <= at + 1.0]
        out.append(before[-1] if before else None)
    return out
