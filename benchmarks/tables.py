"""Fills the documents' tables and plots from benchmarks/results; `--check` only compares.

A block `<!-- table: NAME -->` ... `<!-- end -->` is replaced by what function NAME returns.
"""

from __future__ import annotations

import argparse
import contextlib
import re
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import bench_plots
import bench_tables
import interplay_tables
import learning_tables
import limits_tables
import method_tables
import population_tables
import replay_tables
import report_tables
import restore_tables
import resume_tables
import sketch_tables
import storage_tables
from document import ROOT, NotMeasured, load, markdown, source

DOCUMENTS = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
BLOCK = re.compile(r"(<!-- table: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def noise() -> str:
    equality, battery = load("bit_equality.json"), load("dieharder.json")
    pairs = "; ".join(f"{pair}: {n}" for pair, n in equality["mismatches"].items())
    verdicts = [v["verdict"] for v in battery["verdicts"]]
    counted = ", ".join(f"{verdicts.count(v)} {v.lower()}" for v in sorted(set(verdicts)))
    again = "".join(
        f"; with more samples {v['test']} {v['verdict'].lower()}"
        for v in battery["resolved"]
        if v["psamples"] > 100
    )
    tests = len({v["test"] for v in battery["verdicts"]})
    return (
        f"- Mismatches over {equality['elements']:,} elements of each distribution, noise and "
        f"stochastic rounding: {pairs}. {source(equality, 'bit_equality.json')}\n"
        f"- {battery['battery']} on the raw bits, {len(verdicts)} runs of {tests} tests: "
        f"{counted}{again}. "
        f"{source(battery, 'dieharder.json')}\n"
        "- Moments, Kolmogorov-Smirnov, chi-square and independence at 10^8 draws are part of "
        "`make test` (tests/kernels/test_statistics.py)."
    )


def static() -> str:
    result = load("static_sm90.json")
    kernels = {"targeted gaussian", *result["budgets"]}
    rows = [
        [k["backend"], k["kernel"], k["dtype"], f"{k['per_element']:.1f}",
         result["budgets"].get(k["kernel"], ""), k["registers"], k["spilled"]]
        for k in sorted(result["kernels"], key=lambda k: (k["kernel"], k["dtype"], k["backend"]))
        if k["kernel"] in kernels and k["dtype"] != "fp16"
    ]  # fmt: skip
    head = ["backend", "pass", "dtype", "instructions an element", "budget", "registers", "spilled"]
    return f"{markdown(head, rows)}\n\nnvcc {result['nvcc']}. {source(result, 'static_sm90.json')}"


def candidates() -> str:
    result = load("gaussian_candidates.json")
    tails = ("3.0", "4.0")  # beyond, too few of the draws
    rows = [
        [c["candidate"].replace("_", " "), f"{c['per_element']:.1f}", c["registers"],
         c["reach"], *(f"{c['tail_over_normal'][x]:.2f}" for x in tails)]
        for c in result["candidates"]
    ]  # fmt: skip
    head = ["construction", "instructions an element", "registers", "reach (sigma)"]
    head += [f"tail at {float(x):g} sigma / normal" for x in tails]
    note = f"Tails of a float64 model over {result['samples']:,} draws."
    return f"{markdown(head, rows)}\n\n{note} {source(result, 'gaussian_candidates.json')}"


def drift() -> str:
    result = load("inplace_drift.json")
    last = max(row["steps"] for row in result["rows"])
    rows = [
        [r["way"], r["dtype"], r["noise"], r["rounding"], f"{r['steps']:,}",
         f"{100 * r['changed']:.0f} %", f"{r['rms_over_weights']:.1e}",
         f"{r['mean_over_error']:+.1f}", f"{r['away_from_zero_over_error']:+.1f}",
         f"{100 * r['away_from_zero_over_weights']:+.2g} %"]
        for r in result["rows"]
        if r["steps"] in (1000, last)
    ]  # fmt: skip
    head = ["steps of", "dtype", "noise", "rounding", "steps", "weights changed",
            "rms drift / rms weight", "mean drift / its s.e.", "away from zero / its s.e.",
            "mean magnitude"]  # fmt: skip
    note = (
        f"{result['numel']:,} weights ~ N(0, {result['deviation']:g}), eps {result['eps']:g}, "
        "lr 0: every change is drift. An unbiased drift keeps both quotients within about 3; below "
        "zero the second says that weights shrink. MeZO's steps are re-created from its operations."
    )
    return f"{markdown(head, rows)}\n\n{note} {source(result, 'inplace_drift.json')}"


def demo() -> str:
    result = load("demo.json")
    names = {
        "before": "before (supervised start)",
        "iteration 0": "iteration 0: plain SPSA",
        "plain": "iteration 1: plain SPSA again",
        "targeted": "iteration 1: targeted (ZOPrO)",
    }
    rows = []
    for arm, found in result["arms"].items():
        low, high = found["gain_95_seeds"]
        gain = "" if arm == "before" else f"{found['gain']:+.4f} [{low:+.4f}, {high:+.4f}]"
        rows.append([names[arm], f"{found['reward']:.4f}", gain])
    difference = result["targeted_minus_plain"]
    low, high = difference["95"]
    note = (
        f"Mean chrF/100 of responses sampled to {result['prompts']:,} held-out prompts, "
        f"{result['seeds']} seeds; gains over the start with 95 % intervals over seeds. Targeted "
        f"minus plain in iteration 1: {difference['mean']:+.4f} [{low:+.4f}, {high:+.4f}]. "
        f"{result['seconds']:.0f} s in all with {result['workers']} processes of one core, peak "
        f"memory of one {result['peak_memory_mb']} MB."
    )
    head = ["arm", "reward", "gain"]
    return f"{markdown(head, rows)}\n\n{note} {source(result, 'demo.json')}"


def reward_baselines() -> str:
    result = load("reward_baselines.json")
    kinds = list(result["tasks"][0]["kinds"])
    rows = []
    for task in result["tasks"]:
        cells = []
        for kind in kinds:
            mean, low, high, _ = task["kinds"][kind]["reward"].values()
            cells.append(f"{mean:.2f}" + (f" ± {(high - low) / 2:.2f}" if high > low else ""))
        rows.append([f"{task['task']}, `{task['reward']}`", *cells])
    others = [f for t in result["tasks"] for f in t["kinds"].values() if "reference wins" in f]
    wins, compared = (sum(f[k] for f in others) for k in ("reference wins", "items that differ"))
    note = (
        f"Mean reward over {result['tasks'][0]['items']} validation items of each task's offline "
        f"source, ± half of its 95 % interval; the reference wins {wins:,} of {compared:,} "
        "comparisons. In dialogue 0 is what a human's reply out of another conversation gets."
    )
    name = "reward_baselines.json"
    return f"{markdown(['task, reward', *kinds], rows)}\n\n{note} {source(result, name)}"


# Each has BLOCKS: name of a table -> the function that makes it.
MODULES = (
    bench_tables,
    interplay_tables,
    learning_tables,
    limits_tables,
    method_tables,
    population_tables,
    replay_tables,
    report_tables,
    restore_tables,
    resume_tables,
    sketch_tables,
    storage_tables,
)
TABLES: dict[str, Callable[[], str]] = {
    "candidates": candidates,
    "demo": demo,
    "drift": drift,
    "noise": noise,
    "reward_baselines": reward_baselines,
    "static": static,
    **{name: make for module in MODULES for name, make in module.BLOCKS.items()},
}


PLOTS: dict[str, Callable[[Path], None]] = {
    "learning_cpu.svg": partial(learning_tables.plot, "cpu"),
    **{
        f"bench_step_{device}.svg": partial(bench_plots.steps, device) for device in ("cpu", "cuda")
    },
}


def filled(text: str) -> str:
    """`text` with every block made anew, or told as not measured; unknown names are an error."""

    def replace(match: re.Match[str]) -> str:
        try:
            table = TABLES[match[2]]()
        except NotMeasured as missing:
            table = str(missing)
        return f"{match[1]}{table}\n{match[3]}"

    return BLOCK.sub(replace, text)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    args = parser.parse_args()
    stale = []
    for path in DOCUMENTS:
        old = path.read_text()
        new = filled(old)
        if path.parent != ROOT:  # the links are README's
            new = new.replace("](benchmarks/", "](../benchmarks/")
        if new != old:
            stale.append(path.name)
            if not args.check:
                path.write_text(new)
    if not args.check:
        for name, plot in PLOTS.items():
            with contextlib.suppress(NotMeasured):
                plot(ROOT / "docs" / name)
    elif stale:
        print(f"{', '.join(stale)}: not as in benchmarks/results; run python benchmarks/tables.py")
    return int(args.check and bool(stale))


if __name__ == "__main__":
    sys.exit(main())
