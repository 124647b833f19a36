"""Plots of the benchmarks' records."""

from __future__ import annotations

from pathlib import Path

from bench_tables import COMMANDS, plan_of
from document import load

# From the first forward outwards; the forwards' part is what no optimizer can save.
PHASES = ("forwards", "perturb", "flip", "restore and update")


def steps(device: str, path: Path) -> None:
    """SVG: the phases of each step over its two forwards alone, one panel a model.

    Raises NotMeasured where there is no record of `device`.
    """
    result = load(f"bench_step_{device}.json", COMMANDS[device])
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    matplotlib.rcParams["svg.hashsalt"] = "zopro"  # the same record gives the same file
    models = list(dict.fromkeys(plan_of(r) for r in result["steps"]))
    figure, axes = plt.subplots(
        1, len(models), figsize=(3.2 * len(models) + 1.5, 2.8), sharey=True, squeeze=False
    )
    for model, ax in zip(models, axes[0]):
        rows = [r for r in result["steps"] if plan_of(r) == model][::-1]
        left = [0.0] * len(rows)
        for phase in PHASES:
            widths = [r["phases_s"][phase] / r["forwards_alone_s"] for r in rows]
            ax.barh([r["case"] for r in rows], widths, left=left, label=phase)
            left = [a + b for a, b in zip(left, widths)]
        ax.axvline(1.0, color="black", linewidth=0.8)
        ax.set_title(model, fontsize=9)
        ax.set_xlabel("time / two forwards alone")
    axes[0][0].legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)
