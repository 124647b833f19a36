"""The table of docs/report.md."""

from __future__ import annotations

from document import load, markdown, source


def report() -> str:
    """What a report costs."""
    result = load("report.json", "python benchmarks/bench_report.py RUN --json ...")
    r = result["report"]
    head = ["", "seconds", "CPU seconds"]
    rows = [
        ["the page", f"{r['seconds']:.0f}", f"{r['cpu seconds']:.0f}"],
        [f"the page and {r['figures']} figures as PNG and SVG", f"{r['seconds with figures']:.0f}",
         f"{r['cpu seconds with figures']:.0f}"],
    ]  # fmt: skip
    note = (
        f"Of a run of the small model ({r['task']}, {r['method']}, {r['iterations']} iterations, "
        f"{r['logs']} logs, {r['snapshots']} snapshots in {r['bytes of sketches'] / 1e6:.1f} MB). "
        f"The page has {r['bytes of the page'] / 1e6:.1f} MB, of which plotly.js takes "
        f"{r['packed'] * 4 / 3 / 1e6:.1f} MB, packed from {r['bytes of plotly.js'] / 1e6:.1f} MB. "
        f"The machine's load was {r['load']:.0f}."
    )
    return f"{markdown(head, rows)}\n\n{note} {source(result, 'report.json')}"


BLOCKS = {"report": report}
