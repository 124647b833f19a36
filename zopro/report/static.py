"""The figures as PNG and SVG, by matplotlib, from the very data that the page draws.

matplotlib and no screenshot of the page: it needs no browser, and its SVG is of lines and letters
that a paper's own style can change.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from .layers import ALL
from .measure_figures import EACH

# Okabe and Ito's colours as in the page's light theme; dashes and markers tell curves apart too.
COLOURS = ("#0072B2", "#D55E00", "#007A5A", "#A8467F", "#8A6500", "#3B3B3B", "#5B4FC4", "#6e7781")
DASHES = ("-", "--", "-.", (0, (8, 3)), (0, (8, 3, 2, 3)), ":")
MARKERS = ("o", "D", "s", "P", "X")
SIZE = (6.4, 3.6)  # inches


def write_figures(figures: Sequence[dict[str, Any]], folder: Path) -> list[Path]:
    """Writes NAME.png (200 dots an inch) and NAME.svg of each figure that has data; their paths.

    figures: as `Figure.data` gives them. Of figures with choices there is a file for each run, all
    layers, the means layer by layer, and each projection in two and three dimensions: what single
    layers do over time is in the page.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    folder.mkdir(parents=True, exist_ok=True)
    written = []
    # Letters stay letters in the SVG, and its ids are the same at each writing.
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "zopro", "font.size": 9}):
        for data in figures:
            for name, drawn in _chosen(data):
                figure = Figure(figsize=SIZE, layout="constrained")
                _draw(figure, drawn)
                for kind in ("png", "svg"):
                    path = folder / f"{name}.{kind}"
                    metadata = {"Date": None} if kind == "svg" else {}
                    figure.savefig(path, dpi=200, metadata=metadata)
                    written.append(path)
    return written


def _chosen(data: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """(file's name, figure with its `curves`) of what is drawn of one figure."""
    runs = {key.split("/")[0] for key in data["views"]}
    for key, view in data["views"].items():
        run, *rest = key.split("/")
        if rest and rest[0] not in (ALL, EACH):
            continue
        layers = ["layers"] if rest and rest[0] == EACH else []
        parts = [data["name"], *([run] if len(runs) > 1 else []), *layers,
                 *rest[1:2], *(f"{d}d" for d in rest[2:])]  # fmt: skip
        yield re.sub(r"[^\w.-]+", "-", "-".join(parts)), {**data, **view}


def _draw(figure: Any, data: dict[str, Any]) -> None:
    curves = data["curves"]
    if data["kind"] == "ways":
        _ways(figure, data, curves)
        return
    axes = figure.add_subplot()
    for x, _ in data["marks"]:
        axes.axvline(x, color="0.6", linewidth=0.8, linestyle=":")
    for curve in curves:
        _line(axes, curve)
    axes.set(xlabel=data["x"], ylabel=data["y"], title=data["title"])
    if data["log"]:
        axes.set_yscale("log")
    axes.grid(color="0.9", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    if len(curves) > 1:
        axes.legend(frameon=False)


def _line(axes: Any, curve: dict[str, Any]) -> None:
    k = 7 if curve["kind"] == "chance" else curve["colour"]
    colour = COLOURS[k % len(COLOURS)]
    if curve["low"]:
        axes.fill_between(curve["x"], curve["low"], curve["high"], color=colour, alpha=0.2,
                          linewidth=0)  # fmt: skip
    style: dict[str, Any] = {"linestyle": DASHES[k % len(DASHES)]}
    if curve["kind"] == "points":
        style = {"linestyle": "none", "marker": "x"}
    elif curve["kind"] == "chance":
        style = {"linestyle": ":"}
    elif len(curve["x"]) < 40:
        style |= {"marker": MARKERS[k % len(MARKERS)], "markersize": 3}
    axes.plot(curve["x"], curve["y"], color=colour, linewidth=1.3, label=curve["label"], **style)


def _ways(figure: Any, data: dict[str, Any], curves: list[dict[str, Any]]) -> None:
    deep = "z" in curves[0]["more"]
    axes = figure.add_subplot(projection="3d" if deep else None)
    times = [t for curve in curves for t in curve["more"]["time"]]
    drawn = None
    for k, curve in enumerate(curves):
        places = [curve["x"], curve["y"], *([curve["more"]["z"]] if deep else [])]
        colour = COLOURS[curve["colour"] % len(COLOURS)]
        label = "reward model" if curve["label"] == "reward" else curve["label"]
        axes.plot(*places, color=colour, linewidth=1.0, linestyle=DASHES[k % len(DASHES)])
        drawn = axes.scatter(
            *places, c=curve["more"]["time"], cmap="cividis", vmin=min(times), vmax=max(times),
            marker=MARKERS[k % len(MARKERS)], edgecolors=colour, s=24, label=label,
        )  # fmt: skip
    axes.set(xlabel=data["x"], ylabel=data["y"], title=data["title"])
    figure.colorbar(drawn, ax=axes, label="time, snapshots", shrink=0.8)
    axes.legend(frameon=False)
