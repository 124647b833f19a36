"""What the project's own runs say of the interplay of policy and reward model.

    python benchmarks/interplay.py RUN [RUN ...]

RUN: folders of `zopro train` with a reward model, whose sketches they hold. Recorded are a run's
settings and the mean of each measure of zopro.analysis over time, over all layers and in each, with
what chance would give.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from harness import RESULTS, record

from zopro.analysis import Tracks, measure, read_sketches, scores

SETTINGS = ("task", "method", "first", "iterations", "seed", "lora_r", "train")


def measured(tracks: Tracks, layer: str | None) -> list[dict[str, Any]]:
    """Mean, its standard error over time, and chance of each series, then the scores of ways."""
    rows = []
    for series in measure(tracks, layer):
        values = series.values[~np.isnan(series.values)]
        if len(values) == 0:
            continue
        spread = float(values.std(ddof=1) / len(values) ** 0.5) if len(values) > 1 else None
        rows.append({
            "name": series.name, "layer": layer, "values": len(values),
            "mean": float(values.mean()), "standard_error": spread, "chance": series.chance,
            "chance_low": series.low, "chance_high": series.high,
        })  # fmt: skip
    try:
        found = scores(tracks, layer)
    except ValueError:
        found = []  # too few moments, said by the report
    rows += [{"name": s.name, "layer": layer, "values": s.points, "mean": s.value,
              "standard_error": None, "chance": s.chance, "chance_low": s.low,
              "chance_high": s.high} for s in found]  # fmt: skip
    return rows


def of_run(run: Path) -> dict[str, Any]:
    """Settings and measures of one run."""
    tracks = read_sketches(run)
    options = yaml.safe_load((run / "config.yaml").read_text())
    began = json.loads((run / "runs.jsonl").read_text().splitlines()[0])
    rows = [row for layer in (None, *tracks.layers) for row in measured(tracks, layer)]
    return {
        "run": run.name, "command": began["command"],
        "settings": {n: options.get(n) for n in SETTINGS},
        "snapshots": {n: len(t) for n, t in tracks.networks.items()}, "rows": rows,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--json", type=Path, default=RESULTS / "interplay.json")
    given = parser.parse_args()
    made = [of_run(run) for run in given.runs]
    record(given.json, {"runs": made})
    for run in made:
        print(run["run"], run["settings"])
        for row in run["rows"]:
            if row["layer"] is None:
                print(f"  {row['name']:24} {row['mean']:+.4f}  by chance {row['chance']:+.4f}")


if __name__ == "__main__":
    main()
