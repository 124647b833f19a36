"""What the page says in words and tables: the run, the final numbers, how to repeat it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .curves import Group, interval, logged, number
from .figures import ends, shown
from .runs import Run

TERMS = (
    ("Policy", "The language model that is trained: it writes the responses."),
    ("Reward", "A number that says how good a response is, from a function or a reward model."),
    ("Reward model", "A network that learns from preferred and rejected responses what people or "
     "a judge like, and then scores the policy's."),
    ("Iteration", "A round: the policy learns from rewards, then the reward model from pairs of "
     "the policy's own responses."),
    ("Zeroth order", "Training by forward passes alone: the weights are moved a little along a "
     "random direction both ways, and the change of the loss tells which way is down."),
    ("Direction", "The random change of all trained weights that one measurement tries."),
    ("eps", "The size of that change, an element of the weights."),
    ("d", "In ZOPrO, how much a direction follows the previous iteration's update instead of "
     "chance."),
    ("|g|", "The slope of the loss along the directions: how much there is still to gain there."),
    ("KL", "How differently the policy writes from its reference, in nats a response."),
    ("Snapshot", "A small projection of the weights at one moment, which keeps angles and "
     "distances."),
    ("PCA, t-SNE, UMAP", "Ways to draw thousands of numbers in a plane: PCA keeps distances along "
     "the main directions, the others keep neighbours together."),
    ("By chance", "What random vectors of the same size would give."),
    ("95 % interval", "Where the true mean lies in 19 of 20 cases, if the runs or steps are "
     "independent."),
)  # fmt: skip
_METHODS = {
    "zopro": "its later iterations follow directions near the previous update (ZOPrO), by forward "
    "passes alone",
    "spsa": "it follows plain random directions (SPSA), by forward passes alone",
    "rloo": "it follows gradients (RLOO, first order)",
}


def about(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """For each run its title, one sentence, a table of facts, and what could not be read."""
    return [
        {"title": run.name, "sentence": _sentence(run), "notes": run.notes, "rows": _facts(run)}
        for run in runs
    ]


def _sentence(run: Run) -> str:
    task, method = run.option("task"), run.option("method")
    if method is None:
        return "A run of a trainer, whose options are not in its folder."
    what = f"A model learns {task}" if task else "A model learns"
    network = not run.option("rewards") and any(r["phase"] == "reward" for r in run.logs)
    source = "from a reward model that is refined on the way" if network else "from rewards"
    more = ""
    if method != "rloo" and run.option("first") == "rloo":
        more = "; iteration 0 follows gradients (RLOO)"
    return f"{what} {source}: {_METHODS.get(method, method)}{more}."


def _facts(run: Run) -> list[tuple[str, str]]:
    last = run.starts[-1] if run.starts else {}
    done, phase = run.state.get("done") or [], run.state.get("phase")
    state = "finished" if run.done else f"in phase {phase}" if phase else "begun"
    gpus = last.get("gpus") or []
    rows = [
        ("State", f"{state}; {len(done)} phases done" if run.state else ""),
        ("Task", run.option("task")),
        ("Model", run.option("model")),
        ("Method", run.option("method")),
        ("Iterations", run.option("iterations")),
        ("Seed", run.option("seed")),
        ("Trained weights", _trained(run)),
        ("Rewards", ", ".join(run.option("rewards") or []) or None),
        ("Judge", run.option("judge") if not run.option("rewards") else None),
        ("Tokens of a response", run.option("max_completion_length")),
        ("Started", last.get("started")),
        (
            "Machine",
            ", ".join([str(last["machine"]), *map(str, gpus)]) if "machine" in last else "",
        ),
        ("Folder", str(run.path)),
    ]
    return [(name, str(value)) for name, value in rows if value not in (None, "")]


def _trained(run: Run) -> str | None:
    if not run.options:
        return None
    rank = run.options.get("lora_r")
    return "all" if rank is None else f"LoRA adapters of rank {rank}"


def final(groups: Sequence[Group]) -> tuple[list[dict[str, str]], str]:
    """Rows of the final table, and how its intervals come about."""
    rows = [row for row in map(_final, groups) if row is not None]
    several = any(len(group.runs) > 1 for group in groups)
    how = (
        "Of several seeds the interval is that of their mean (Student's t)."
        if several
        else "The interval is over the logged steps of one run (Welch), so it leaves out what "
        "another seed would change."
    )
    return rows, how


def _final(group: Group) -> dict[str, str] | None:
    found = [pair for pair in map(_ends, group.runs) if pair is not None]
    if not found:
        return None
    firsts, lasts = ([sum(part) / len(part) for part in side] for side in zip(*found))
    gains = [b - a for a, b in zip(firsts, lasts)]
    if len(found) > 1:
        mean, half = interval(gains)
    else:
        mean, half = gains[0], _welch(*found[0])
    band = "" if half is None else f" [{mean - half:+.3g}, {mean + half:+.3g}]"
    name = group.name if len(found) == 1 else f"{group.name}, {len(found)} seeds"
    return {
        "name": name, "first": shown(sum(firsts) / len(firsts)),
        "last": shown(sum(lasts) / len(lasts)), "gain": f"{mean:+.3g}{band}",
        "kl": _last(group, "kl"), "length": _last(group, "completions/mean_length"),
        "steps": ", ".join(sorted({f"{max(logged('reward')(run)[0], default=0):.0f}"
                                   for run in group.runs})),
    }  # fmt: skip


def _ends(run: Run) -> tuple[list[float], list[float]] | None:
    """The first and the last of the logged rewards."""
    _, y = logged("reward")(run)
    n = ends(len(y))
    return (y[:n], y[-n:]) if len(y) > 1 else None


def _welch(first: list[float], last: list[float]) -> float | None:
    """Half of the 95 % interval of the difference of the means; None of single values."""
    from scipy.stats import t

    if min(len(first), len(last)) < 2:
        return None
    parts = [_variance(v) / len(v) for v in (first, last)]
    total = sum(parts)
    if total == 0:
        return 0.0
    free = total**2 / sum(p * p / (len(v) - 1) for p, v in zip(parts, (first, last)))
    return float(t.ppf(0.975, free)) * total**0.5


def _variance(values: list[float]) -> float:
    mean = sum(values) / len(values)
    return sum((v - mean) ** 2 for v in values) / (len(values) - 1)


def _last(group: Group, name: str) -> str:
    found = []
    for run in group.runs:
        _, y = logged(name)(run)
        n = ends(len(y))
        found += [sum(y[-n:]) / n] if y else []
    return shown(sum(found) / len(found)) if found else "none logged"


def evals(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """A table for each file of `zopro eval` in the runs' folders, its intervals as they are."""
    tables = []
    for run in runs:
        for file, record in run.evals.items():
            options = record.get("options")
            given = options if isinstance(options, dict) else {}
            metrics = {k: m for k, m in record["metrics"].items() if isinstance(m, dict)}
            names = list(dict.fromkeys(n for m in metrics.values() for n in m))
            tables.append({
                "title": f"Held-out: {run.name}, {file}",
                "caption": f"{given.get('split', 'test')} split, mean [95 % interval]",
                "names": names,
                "rows": [(k, [_interval(m.get(n)) for n in names]) for k, m in metrics.items()],
            })  # fmt: skip
    return tables


def _interval(found: Any) -> str:
    held = found if isinstance(found, dict) else {}
    mean, low, high = (number(held.get(name)) for name in ("mean", "low", "high"))
    if mean is None:
        return ""
    return f"{mean:.3g}" if None in (low, high) else f"{mean:.3g} [{low:.3g}, {high:.3g}]"


def repeat(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """The commands, versions and commits of each run's starts."""
    out = []
    for run in runs:
        starts = []
        for start in run.starts:
            versions = start.get("versions")
            held = versions if isinstance(versions, dict) else {}
            told = [f"{name} {value}" for name, value in held.items() if value]
            told += [f"commit {start['commit']}"] if start.get("commit") else []
            starts.append({
                "when": f"Started {start.get('started', '')}",
                "command": str(start.get("command", "")), "with": ", ".join(told),
            })  # fmt: skip
        missing = "" if starts else "The folder has no runs.jsonl, which says how it was started."
        out.append({"name": run.name, "starts": starts, "missing": missing})
    return out
