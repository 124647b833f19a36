"""Tables of docs/replay.md."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

from document import load, markdown, source

COMMAND = "python benchmarks/{0}.py --json benchmarks/results/{0}.json"


def replay() -> str:
    """Training against replay by each backend, and what the log costs."""
    result = load("replay.json", COMMAND.format("replay"))
    rows = [_replay_row(run, *x) for run in result["runs"] for x in run["replays"].items()]
    head = ["weights", "restore", "steps", "training, s", "backend", "digests", "replay, s",
            "times faster", "bytes a step", "writing the log, share of training"]  # fmt: skip
    first, frozen = result["runs"][0], result["frozen"]
    sizes = {r["weights"]: r["parameters"] for r in result["runs"]}
    parts = "; ".join(f"{w}: {n:,}" for w, n in sizes.items())
    heads = _range(r["head, bytes"] for r in result["runs"])
    note = (
        f"The small model; trained weights: {parts}. An lr that falls at every step, "
        f"{first['tokens']} tokens a forward. CPU time of one thread, training by the cpu backend; "
        f"replays with {first['passes in one']} passes over the weights in one; bytes without the "
        f"head's ({heads}). The digests of {frozen['parameters'] / 1e6:.0f} M frozen weights in "
        f"bf16 take {frozen['seconds']:.2f} s, once."
    )
    return f"{markdown(head, rows)}\n\n{note} {source(result, 'replay.json')}"


def _replay_row(run: dict[str, Any], backend: str, found: dict[str, Any]) -> list[str]:
    name = f"{backend}, interpreted" if backend == "triton" and run["interpreted"] else backend
    times = found["times faster"]
    return [run["weights"], run["restore"], f"{run['steps']:,}", f"{run['training, s']:.0f}", name,
            "equal" if found["same digest"] else "DIFFERENT", f"{found['replay, s']:.2f}",
            f"{times:.0f}" if times >= 10 else f"{times:.2f}", f"{run['bytes a step']:.1f}",
            f"{100 * run['log, share of the step']:.2f} %"]  # fmt: skip


def _range(values: Iterable[int]) -> str:
    found = sorted(set(values))
    return f"{found[0]:,} to {found[-1]:,}" if len(found) > 1 else f"{found[0]:,}"


def fuzz_log() -> str:
    """Outcomes of damaged logs by injury, of forged ones beside them."""
    result = load("fuzz_log.json", COMMAND.format("fuzz_log"))
    counts: Counter = Counter()
    for part in result["parts"]:
        counts.update(part["outcomes"])
    kinds = sorted({name.split(": ")[0] for name in counts}, key=lambda k: ("forged" in k, k))
    ends = ("refused", "cut", "shorter", "whole", "replay refused", "replayed")
    rows = [[kind, *(f"{counts[f'{kind}: {end}']:,}" for end in ends)] for kind in kinds]
    note = (
        f"{counts.total():,} damaged logs of three runs (in place, exact, with lookahead; targets "
        "in fp32, 8 bits and bf16) by their first injury, which half of the time is behind the "
        "head: refused for their head; cut at the "
        "first record that is damaged; shorter, because they end where a record ends, of which "
        "nothing in a log tells; or whole. In none a record was read that had not been written, "
        "and what was read replays to the run's weights. Forged: other values under right "
        "checksums, against which a log has no defence but its marks; where they were read, the "
        "replay was refused (a mark, or what cannot be) or ended, with the run's weights at each "
        "mark of the run that came last."
    )
    return f"{markdown(['injury', *ends], rows)}\n\n{note} {source(result, 'fuzz_log.json')}"


BLOCKS = {"replay": replay, "fuzz_log": fuzz_log}
