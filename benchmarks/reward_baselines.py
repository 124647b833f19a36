"""Can the tasks' rewards be gamed? What degenerate completions score on real validation items.

    python benchmarks/reward_baselines.py            # three tasks, 200 items each, about a minute
    python benchmarks/reward_baselines.py --embedding    # dialogue's optional reward too (84 MB)

For each task's offline source (fetched on first use): mean reward, with 95 % intervals, of the
reference, a copy of the input, its opening words, another item's reference, the reference twice,
its words shuffled, and nothing; and on how many items the reference scores highest.

For dialogue, where many replies are good, also whether the reward tells more than that: what a
human's later reply out of the same conversation scores beside one out of another conversation, and
beside a sentence that suits anything.
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


def probe(items: int, reward: str, cache_dir: str | None) -> dict:
    """Rewards of replies that are not the reference, on up to `items` validation dialogues."""
    task = get_task("dialogue")
    rows = task.load("validation", cache_dir=cache_dir)
    groups: dict[str, list[int]] = {}
    for i, key in enumerate(rows["key"]):
        groups.setdefault(key, []).append(i)
    chosen = [group for group in groups.values() if len(group) > 2][:items]
    table = {name: [rows[name][group[0]] for group in chosen] for name in rows.column_names}
    prompts, references = table.pop("prompt"), rows["reference"]
    later = [references[group[2]] for group in chosen]
    candidates = {
        "later": later,
        "elsewhere": later[1:] + later[:1],
        "bland": ["Yeah, I think that is really nice to hear."] * len(chosen),
        "don't know": ["I don't know"] * len(chosen),
    }
    function = task.reward_funcs(reward)[0]
    scores = {kind: function(prompts, texts, **table) for kind, texts in candidates.items()}
    found = {kind: bootstrap(values)._asdict() for kind, values in scores.items()}
    for kind in list(candidates)[1:]:
        differences = [a - b for a, b in zip(scores["later"], scores[kind])]
        found[f"later less {kind}"] = bootstrap(differences)._asdict()
    return found


def show(result: dict) -> None:
    """Prints one task's table."""
    print(f"\n{result['task']} ({result['source']}), reward {result['reward']!r}")
    for kind, found in result["kinds"].items():
        mean, low, high, _ = found["reward"].values()
        wins = f"{found['reference wins']}/{found['items that differ']}" if len(found) > 1 else ""
        print(f"  {kind:<21} {mean:6.3f} [{low:6.3f}, {high:6.3f}]  {wins}")
    for kind, (mean, low, high, _) in ((k, v.values()) for k, v in result.get("probe", {}).items()):
        print(f"  {kind:<21} {mean:6.3f} [{low:6.3f}, {high:6.3f}]")


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
        if name == "dialogue":
            results[-1]["probe"] = probe(args.items, results[-1]["reward"], args.cache_dir)
        show(results[-1])
    record(args.out, {"tasks": results})


if __name__ == "__main__":
    main()
