"""Tables and plots of the learning benchmark, from its records (see learning.py)."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from document import load, markdown, source
from learning_stats import METHODS, by_label, interval, method_of, reward_at, signed, start_reward

AGAINST = (  # differences that a comparison states
    ("zopro", "spsa"), ("zopro", "rloo"), ("zopro_first_order", "rloo"),
    ("population", "one_direction"), ("family", "population"), ("population", "rloo"),
)  # fmt: skip
FIRST_ORDER = ("train", "lr", "batch", "sweeps")
PLAIN = (*FIRST_ORDER, "eps", "directions", "estimator")
TARGETED = (*PLAIN, "iterations", "schedule", "aim_lr", "first", "first_lr")
MANY = ("population", "family")  # where they are not 0


def settings_of(run: dict[str, Any]) -> str:
    s = run["settings"]
    names = {"rloo": FIRST_ORDER, "spsa": PLAIN, "zopro": TARGETED}[s["method"]]
    if s.get("population"):
        names = [n for n in names if n not in ("directions", "schedule")] + [*MANY]
    if not s.get("first"):
        names = [n for n in names if n != "first_lr"]
    return ", ".join(f"{n} {s[n]:.4g}" if isinstance(s[n], float) else f"{n} {s[n]}"
                     for n in names if s.get(n) not in (None, 0, "one_sided"))  # fmt: skip


def compare_rows(result: dict[str, Any]) -> list[list[str]]:
    """One row a method: rewards at equal seconds and at equal forward tokens, KL, memory, time."""
    groups, start = by_label(result), start_reward(result)
    ends = [[r["curve"][-1]["forward_tokens"] for r in runs] for runs in groups.values()]
    least = min(map(statistics.mean, ends))
    rows = []
    for method, runs in groups.items():
        budget = runs[0]["settings"]["seconds"]
        at_time = [reward_at(r, start, "seconds", budget) - start for r in runs]
        at_tokens = [reward_at(r, start, "forward_tokens", least) - start for r in runs]
        kl = statistics.mean(r["curve"][-1]["kl"] for r in runs)
        peak = statistics.median(r["peak_mb"] for r in runs)
        shares = phase_shares(runs)
        told = ", ".join(f"{k} {v:.0f} %" for k, v in shares.items() if v >= 0.5)
        rows.append(
            [METHODS[method], signed(at_time), signed(at_tokens), f"{kl:.2f}", f"{peak:.0f}", told]
        )
    return rows


def phase_shares(runs: list[dict[str, Any]]) -> dict[str, float]:
    """Percent of the seconds in each phase, over all runs, greatest first."""
    total = sum(sum(r["seconds"].values()) for r in runs)
    phases = {k for r in runs for k in r["seconds"]}
    shares = {k: 100 * sum(r["seconds"].get(k, 0.0) for r in runs) / total for k in phases}
    return dict(sorted(shares.items(), key=lambda item: -item[1]))


def difference(result: dict[str, Any], a: str, b: str) -> str:
    """Reward of a minus b at equal seconds, paired by seed."""
    groups, start = by_label(result), start_reward(result)
    budget = groups[a][0]["settings"]["seconds"]
    pairs = zip(groups[a], groups[b])
    return signed([reward_at(x, start, "seconds", budget) - reward_at(y, start, "seconds", budget)
                   for x, y in pairs])  # fmt: skip


def ablation_rows(result: dict[str, Any]) -> list[list[str]]:
    """One row a change: reward minus the tuned setting's at equal seconds, paired by seed."""
    groups, start = by_label(result), start_reward(result)
    base = groups["as tuned"]
    budget = base[0]["settings"]["seconds"]
    rows = []
    for label, runs in groups.items():
        rewards = [reward_at(r, start, "seconds", budget) for r in runs]
        gain = signed([x - start for x in rewards])
        less = [x - reward_at(b, start, "seconds", budget) for x, b in zip(rewards, base)]
        kl = statistics.mean(r["curve"][-1]["kl"] for r in runs)
        rows.append([label, gain, "" if runs is base else signed(less), f"{kl:.2f}"])
    return rows


def tune_rows(result: dict[str, Any]) -> list[list[str]]:
    """All tuning runs, method by method, best first."""
    start, rows = start_reward(result), []
    runs = [r for r in result["runs"] if r["settings"]["method"] in METHODS]
    for r in sorted(runs, key=lambda r: (method_of(r), -r["curve"][-1]["reward"])):
        end = r["curve"][-1]
        rows.append([METHODS[method_of(r)], settings_of(r),
                     f"{end['reward'] - start:+.4f} ± {1.96 * end['se']:.4f}", f"{end['kl']:.2f}",
                     str(r["steps"])])  # fmt: skip
    return rows


def plot(name: str, path: Path) -> None:
    """SVG: held-out reward over seconds and over forward tokens, mean and 95 % over seeds."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    matplotlib.rcParams["svg.hashsalt"] = "zopro"  # the same record gives the same file
    result = load(f"learning_compare_{name}.json")
    groups, start = by_label(result), start_reward(result)
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.4), sharey=True)
    for axis, ax in zip(("seconds", "forward_tokens"), axes):
        for method, runs in groups.items():
            end = min(r["curve"][-1][axis] for r in runs)
            xs = [end * i / 12 for i in range(13)]
            points = [interval([reward_at(r, start, axis, x) for r in runs]) for x in xs]
            line = ax.plot(xs, [m for m, _ in points], label=METHODS[method])[0]
            ax.fill_between(xs, [m - h for m, h in points], [m + h for m, h in points],
                            color=line.get_color(), alpha=0.2, linewidth=0)  # fmt: skip
        ax.set_xlabel(f"{axis.replace('_', ' ')} of training")
        ax.grid(alpha=0.3)
    axes[0].set_ylabel("held-out reward")
    axes[0].legend()
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Date": None})


def comparison(name: str) -> str:
    """The comparison of one record: gains, budget, what is subtracted from what."""
    result = load(f"learning_compare_{name}.json")
    head = [
        "method",
        "gain at equal time",
        "gain at equal forward tokens",
        "KL",
        "peak, MB",
        "time",
    ]
    runs, s = by_label(result), result["runs"][0]["settings"]
    pairs = [(a, b) for a, b in AGAINST if a in runs and b in runs]
    seeds = len(next(iter(runs.values())))
    versus = "; ".join(
        f"{METHODS[a]} minus {METHODS[b]}: {difference(result, a, b)}" for a, b in pairs
    )
    note = (
        f"Gain of the mean reward ({s['task']}) over the start's "
        f"{start_reward(result):.4f} on {len(result['runs'][0]['rewards']):,} test prompts, "
        f"mean and 95 % interval over {seeds} seeds, after {s['seconds']:g} s of one "
        f"core. {versus}. KL from the start in nats a response; peak memory over the loaded model."
    )
    table = markdown(head, compare_rows(result))
    return f"{table}\n\n{note} {source(result, f'learning_compare_{name}.json')}"


def tuning(name: str) -> str:
    """All tuning runs of one record."""
    result = load(f"learning_tune_{name}.json")
    head = ["method", "settings", "gain", "KL", "steps"]
    note = (
        "Gain when the run ended. One seed a run, ± 1.96 standard errors over validation prompts."
    )
    table = markdown(head, tune_rows(result))
    return f"{table}\n\n{note} {source(result, f'learning_tune_{name}.json')}"


def ablations() -> str:
    result = load("learning_ablate_cpu.json")
    head = ["changed", "gain", "minus as tuned", "KL"]
    note = (
        "Validation prompts; means and 95 % intervals over seeds, paired by seed in the third "
        "column."
    )
    table = markdown(head, ablation_rows(result))
    return f"{table}\n\n{note} {source(result, 'learning_ablate_cpu.json')}"


def previous_update() -> str:
    result = load("previous_update.json")
    rows = [
        [METHODS[p["method"]], p["seed"], p["steps"], f"{p['moved']:.2f}",
         f"{p['slope_along_update']:+.4f} ± {1.96 * p['slope_error']:.4f}",
         f"{p['gradient_norm']:.4f}", f"{p['noise_norm']:.4f}", f"{p['chance']:.3f}"]
        for p in result["phases"]
    ]  # fmt: skip
    head = ["phase", "seed", "steps", "moved", "slope along its update", "norm of the gradient",
            "norm of a batch's noise", "cosine of chance"]  # fmt: skip
    note = (
        "Is the previous update still a good direction once its phase is over? The descent of the "
        "objective along it, of unit length, by the exact gradient there on fresh rollouts; the "
        "gradient's own norm, without its noise, is what the best direction would give."
    )
    return f"{note}\n\n{markdown(head, rows)}\n\n{source(result, 'previous_update.json')}"


def projection() -> str:
    result = load("projection.json")
    rows = [
        [r["seed"], "yes" if r["project"] else "no",
         f"{r['reward']['mean']:.4f} [{r['reward']['low']:.4f}, {r['reward']['high']:.4f}]",
         f"{r['share_along_v']:.6f}", f"{r['expected_share']:.6f}",
         f"{r['cosine_of_updates']:.5f}"]
        for r in result["runs"]
    ]  # fmt: skip
    head = ["seed", "projected", "held-out reward", "share of the noise along v", "by chance",
            "cosine of the two updates"]  # fmt: skip
    note = (
        "Does the projection matter? The whole method (reward model, judge, refinement, LoRA) with "
        "and without it, from the same seeds."
    )
    return f"{note}\n\n{markdown(head, rows)}\n\n{source(result, 'projection.json')}"


RECORDS = {"": "cpu", "_summarisation": "cpu_summarisation", "_dialogue": "cpu_dialogue"}
BLOCKS: dict[str, Callable[[], str]] = {
    "ablations": ablations,
    **{f"learning{key}": partial(comparison, name) for key, name in RECORDS.items()},
    **{f"learning_settings{key}": partial(tuning, name) for key, name in RECORDS.items()},
    "learning_settings_population": partial(tuning, "cpu_population"),
    "previous_update": previous_update,
    "projection": projection,
}
