"""Tables of interplay.json and defaults_cpu.json: what the project's own runs show."""

from __future__ import annotations

from typing import Any

from document import load, markdown, source

SHOWN = ("policy.turn", "policy.iteration", "policy.reward", "reward.turn", "reward.iteration",
         "between.updates", "between.positions", "distance_correlation")  # fmt: skip


def interplay() -> str:
    """A row a run and measure: all layers, the range over layers, chance."""
    result = load("interplay.json", "python benchmarks/interplay.py RUN ...")
    rows = [row for run in result["runs"] for row in of_run(run)]
    head = ["run", "measure", "values", "mean, all layers", "least to greatest layer",
            "95 % of chance"]  # fmt: skip
    commands = "; ".join(f"{r['run']}: `{r['command']}`" for r in result["runs"])
    note = (
        "Means over time, ± the standard error over time; by layer, those of the layer with the "
        "least and with the greatest. A share's chance reaches to 3.84 times its expectation. "
        f"{commands}."
    )
    return f"{markdown(head, rows)}\n\n{note} {source(result, 'interplay.json')}"


def of_run(run: dict[str, Any]) -> list[list[str]]:
    rows = []
    for name in SHOWN:
        same = [r for r in run["rows"] if r["name"] == name]
        whole = next((r for r in same if r["layer"] is None), None)
        if whole is None:
            continue
        layers = [r["mean"] for r in same if r["layer"] not in (None, "head")]
        reach = f"{min(layers):+.3f} to {max(layers):+.3f}" if layers else ""
        error = whole["standard_error"]
        rows.append([
            run["run"], f"`{name}`", whole["values"],
            f"{whole['mean']:+.4f}" + (f" ± {error:.4f}" if error is not None else ""), reach,
            f"{whole['chance_low']:.4f} to {whole['chance_high']:.4f}",
        ])  # fmt: skip
    return rows


def defaults() -> str:
    """A row a task: the whole method with its defaults."""
    result = load("defaults_cpu.json", "python benchmarks/defaults.py --starts ...")
    rows = []
    for run in result["runs"]:
        first = next(iter(run["before"]["model"]))
        before, after = (run[k]["model"][first] for k in ("before", "after"))
        steps = ", ".join(f"{phase} {n}" for phase, n in run["steps"].items())
        rows.append([
            run["task"], f"`{run['more']}`" if run["more"] else "none",
            f"{before['mean']:.3f}", f"{after['mean']:.3f} ({first})",
            f"{run['gain']:+.4f} ± {run['gain_95']:.4f}", f"{run['cpu_seconds']:.0f}", steps,
        ])  # fmt: skip
    head = ["task", "options", "before", "after", "gain of the reward", "CPU seconds",
            "steps of the phases"]  # fmt: skip
    prompts = min(r["prompts"] for r in result["runs"])
    note = (
        f"`zopro train --task TASK --model START --method zopro`; samples to {prompts} test "
        "prompts, ± half of the 95 % interval over prompts; one seed."
    )
    return f"{markdown(head, rows)}\n\n{note} {source(result, 'defaults_cpu.json')}"


BLOCKS = {"interplay": interplay, "defaults": defaults}
