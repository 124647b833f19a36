"""Can the tasks' rewards be gamed? What degenerate completions score on real validation items.

    python benchmarks/reward_baselines.py            # three tasks, 200 items each, about a minute
    python benchmarks/reward_baselines.py --embedding    # dialogue's optional reward too (84 MB)

For each task's offline source (fetched on first use): mean reward, with 95 % intervals, of the
reference, a copy of the input, its opening words, another item's reference, the reference twice,
its words shuffled, and nothing; and on how many items the reference scores highest.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from harness import RESULTS, record

from zopro.tasks import bootstrap, get_task

TASKS = ("summarisation", "translation", "dialogue")


def measure(name: str, items: int, reward: str | None, cache_dir: str | None) -> dict:
    """Rewards by kind of completion on `items` validation rows of a task's default source."""
    task = get_task(name)
    rows = task.load("validation", limit=items, cache_dir=cache_dir)
    table = {column: list(rows[column]) for column in rows.column_names}
    prompts = table.pop("prompt")
    function = task.reward_funcs(*([reward] if reward else []))[0]
    baselines = task.baselines(rows)
    scores = {kind: function(prompts, texts, **table) for kind, texts in baselines.items()}
    best = scores["reference"]
    found = {}
    for kind, values in scores.items():
        # An item whose candidate is the reference itself (one word shuffled) is no comparison.
        differ = [
            (a, b)
            for a, b, x, y in zip(best, values, baselines["reference"], baselines[kind])
            if x.strip() != y.strip()
        ]
        found[kind] = {"reward": bootstrap(values)._asdict()}
        if kind != "reference":
            found[kind]["items that differ"] = len(differ)
            found[kind]["reference wins"] = sum(a > b for a, b in differ)
            found[kind]["lead of the reference"] = bootstrap([a - b for a, b in differ])._asdict()
    origin = next(key for key in task.origins if key != "hub")
    reward = reward or next(iter(task.rewards))
    return {"task": name, "source": origin, "reward": reward, "items": len(best), "kinds": found}


def show(result: dict) -> None:
    """Prints one task's table."""
    print(f"\n{result['task']} ({result['source']}), reward {result['reward']!r}")
    for kind, found in result["kinds"].items():
        mean, low, high, _ = found["reward"].values()
        wins = f"{found['reference wins']}/{found['items that differ']}" if len(found) > 1 else ""
        print(f"  {kind:<10} {mean:6.3f} [{low:6.3f}, {high:6.3f}]  {wins}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--items", type=int, default=200)
    parser.add_argument("--embedding", action="store_true", help="dialogue's optional reward too")
    parser.add_argument("--cache-dir", default=None)
    parser.add_argument("--out", type=Path, default=RESULTS / "reward_baselines.json")
    args = parser.parse_args()
    plan: list[tuple[str, str | None]] = [(name, None) for name in TASKS]
    if args.embedding:
        plan.append(("dialogue", "embedding"))
    results = []
    for name, reward in plan:
        results.append(measure(name, args.items, reward, args.cache_dir))
        show(results[-1])
    record(args.out, {"tasks": results})


if __name__ == "__main__":
    main()
