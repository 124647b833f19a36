"""Policy and reward model on their ways: figures out of the sketches of a run."""

from __future__ import annotations

import time
from typing import Any

from zopro.analysis import Tracks, from_checkpoints, read_sketches, scores

from .figures import Figure
from .layers import ALL, SECTION, layers_of, named
from .measure_figures import measure_figures
from .runs import Run
from .way_figure import way_figure

SECONDS = 10.0  # of CPU for the scores of single layers


def tracks_of(run: Run) -> Tracks:
    """The run's sketches, or its checkpoints' where there are none; ValueError says what lacks."""
    if not (run.path / "sketches").is_dir() and any(run.path.glob("checkpoint-*/*.safetensors")):
        return from_checkpoints(run.path)
    return read_sketches(run.path)


def figures_of_tracks(runs: list[Run], quick: bool = False) -> tuple[list[Figure], list[Any]]:
    """(figures, scores) of the runs' tracks; the runs and their layers are choices.

    quick: PCA alone. scores: rows (run's name, layer, zopro.analysis.Score). Where the tracks
    cannot serve, a figure's `missing` says why.
    """
    found: dict[str, Tracks] = {}
    why = []
    keyed = dict(zip(_keys(runs), runs))
    for key, run in keyed.items():
        try:
            found[key] = tracks_of(run)
        except (ValueError, OSError) as error:
            why.append(f"{run.name}: {error}." if len(runs) > 1 else f"{error}.")
    ways, wrong = way_figure(found, keyed, quick)
    measures, bad = measure_figures(found)
    if ways.views:
        more = " ".join(["", *why, *wrong])
        ways.seen += more
        for view in ways.views.values():
            view["seen"] += more
    else:
        ways.missing = " ".join(dict.fromkeys(why + wrong))
    if found and not measures and bad != wrong:
        measures = [_without_measures(bad)]
    return [ways, *measures], _scores(found)


def _without_measures(why: list[str]) -> Figure:
    return Figure(
        "measures", SECTION, "Measures over time", "Angles between the updates of policy "
        "and reward model.", missing=" ".join(why),
    )  # fmt: skip


def _keys(runs: list[Run]) -> list[str]:
    """The runs' names, numbered where two are the same; none has a slash."""
    names = [run.name.replace("/", "_") for run in runs]
    return [f"{n} ({k})" if names.count(n) > 1 else n for k, n in enumerate(names, 1)]


def _scores(found: dict[str, Tracks]) -> list[tuple[str, str, Any]]:
    rows, until = [], time.process_time() + SECONDS
    for key, tracks in found.items():
        for layer in layers_of(tracks):
            if layer != ALL and time.process_time() > until:
                continue
            try:
                rows += [(key, layer, score) for score in scores(tracks, named(layer))]
            except ValueError:
                continue  # the figures say why
    return rows
