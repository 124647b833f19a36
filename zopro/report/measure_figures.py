"""The figures of the measures over time, with what chance would give."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np

from zopro.analysis import Tracks, measure

from .curves import Curve
from .figures import Figure, shown
from .layers import ALL, COLOURS, SECTION, layers_of, named

# Series of each network in one figure, by what follows the network's name.
_EACH = ("turn", "previous", "iteration")
EACH = "layer by layer (means)"


def measure_figures(found: dict[str, Tracks]) -> tuple[list[Figure], list[str]]:
    """(figures, sentences): one figure a measure, with runs and layers as choices; what lacks."""
    figures: dict[str, Figure] = {}
    wrong: list[str] = []
    for key, tracks in found.items():
        for layer in layers_of(tracks):
            try:
                series = measure(tracks, named(layer))
            except ValueError as error:
                wrong.append(f"{error}.")
                continue
            for s in series:
                _add(figures, s, key, layer)
    for figure in figures.values():
        for view in figure.views.values():
            view["seen"] = _measured(view["curves"])
        _each_layer(figure)
        figure.seen = next(iter(figure.views.values()))["seen"]
        keys = [key.split("/") for key in figure.views]
        figure.choices = [
            ("Run", [(k, k) for k in dict.fromkeys(k for k, _ in keys)]),
            ("Layer", [(k, k) for k in dict.fromkeys(k for _, k in keys)]),
        ]
    return list(figures.values()), list(dict.fromkeys(wrong))


def _add(figures: dict[str, Figure], s: Any, key: str, layer: str) -> None:
    network, _, what = s.name.partition(".")
    each = what in _EACH
    name = what if each else s.name.replace(".", "-")
    if name not in figures:
        meaning = s.meaning.replace(f"the {network}", "each network", 1) if each else s.meaning
        figures[name] = Figure(
            f"measure-{name}", SECTION, s.title,
            f"{meaning} Dotted: what chance would give, with 95 % of random vectors in "
            "the band; a line's own band is twice its error.",
            x="snapshots, in the order of time", y="share" if s.low == 0 else "cosine",
        )  # fmt: skip
    view = figures[name].views.setdefault(f"{key}/{layer}", {"curves": []})
    colour = COLOURS.get(network, 2)
    x = [float(v) for v in s.order]
    moments = [f"{phase} step {step}" for phase, step in zip(s.phases, s.steps)]
    least = 0.0 if s.low == 0 else -1.0  # a share, or a cosine
    low, high = (np.clip(s.values + sign * s.error, least, 1.0).tolist() for sign in (-2, 2))
    view["curves"].append(asdict(Curve(
        network if network in COLOURS else "policy and reward model", x, s.values.tolist(),
        low, high, colour, text=moments,
    )))  # fmt: skip
    ends = [x[0], x[-1]]
    chance = Curve("chance", ends, [s.chance] * 2, [s.low] * 2, [s.high] * 2, 7, "chance")
    others = [c for c in view["curves"] if c["kind"] == "chance"]
    for c in others:
        c["x"] = [min(c["x"][0], x[0]), max(c["x"][1], x[-1])]
    view["curves"] = [c for c in view["curves"] if c not in others] + (others or [asdict(chance)])


def _each_layer(figure: Figure) -> None:
    """Adds to each run a view over its layers: means over time, beside what chance gives."""
    for run in dict.fromkeys(key.split("/")[0] for key in figure.views):
        keys = [k for k in figure.views if k.startswith(f"{run}/") and k != f"{run}/{ALL}"]
        if len(keys) < 2:
            continue
        found: dict[str, Curve] = {}
        for key in keys:
            for c in figure.views[key]["curves"]:
                made = found.setdefault(
                    c["label"], Curve(c["label"], [], [], colour=c["colour"], kind=c["kind"])
                )
                made.x.append(key.split("/")[1])
                made.y.append(sum(c["y"]) / len(c["y"]))
        curves = [asdict(curve) for curve in found.values()]
        figure.views[f"{run}/{EACH}"] = {
            "curves": sorted(curves, key=lambda c: c["kind"] == "chance"), "x": "layer",
            "seen": "Means over time, layer by layer.",
        }  # fmt: skip


def _measured(curves: list[dict[str, Any]]) -> str:
    chance = next(c for c in curves if c["kind"] == "chance")
    told = []
    for curve in curves:
        if curve["kind"] != "chance":
            mean = sum(curve["y"]) / len(curve["y"])
            within = chance["low"][0] <= mean <= chance["high"][0]
            word = "within what chance gives" if within else "beyond what chance gives"
            told.append(f"{curve['label']}: {shown(mean)} on average, {word}")
    return f"{'; '.join(told)} ({shown(chance['y'][0])})."
