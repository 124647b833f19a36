"""`write_report`: the file, and the figures for papers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from .page import content, page
from .runs import read_run


def write_report(
    runs: Sequence[str | Path],
    out: str | Path = "report.html",
    *,
    figures: str | Path | None = None,
    title: str | None = None,
) -> Path:
    """Writes the report of `runs` (folders) to `out`, and its figures as PNG and SVG to `figures`.

    Runs that differ by their seed alone are one method, of whose seeds the page shows the mean with
    its interval. Returns the file. Raises ValueError, one sentence, for no runs, a folder that is
    no run, or the same run twice; ImportError where a package is missing; OSError where a file
    cannot be written.
    """
    if not runs:
        raise ValueError("runs is empty: give the folder of at least one run")
    found = [Path(run).resolve() for run in runs]
    for run in found:
        if found.count(run) > 1:
            raise ValueError(f"run={str(run)!r} is given twice: give each run once")
    read = [read_run(run) for run in runs]
    data = content(read)
    text = page(read, data, title)
    path = Path(out)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    if figures is not None:
        from .static import write_figures

        write_figures(data["figures"], Path(figures))
    return path
