"""Tables of docs/replay.md."""

from __future__ import annotations

from document import load, markdown, source

COMMAND = "python benchmarks/{0}.py --json benchmarks/results/{0}.json"


def replay() -> str:
    """Training against replay, and what the log costs."""
    result = load("replay.json", COMMAND.format("replay"))
    rows = [
        [r["restore"], f"{r['steps']:,}", "equal" if r["same digest"] else "DIFFERENT",
         f"{r['training, s']:.0f}", f"{r['replay one by one, s']:.2f}", f"{r['replay, s']:.2f}",
         f"{r['times faster']:.0f}", f"{r['bytes a step']:.0f}",
         f"{100 * r['log, share of the step']:.2f} %"]
        for r in result["runs"]
    ]  # fmt: skip
    head = ["restore", "steps", "digests", "training, s", "replay one by one, s", "replay, s",
            "times faster", "bytes a step", "writing the log, share of training"]  # fmt: skip
    first = result["runs"][0]
    note = (
        f"All {first['parameters']:,} weights of the small model, {first['tokens']} tokens a "
        "forward; CPU time of one thread; replays with one pass over the weights at a time and "
        f"with {first['passes in one']} in one, in turn, medians; bytes with the head's."
    )
    return f"{markdown(head, rows)}\n\n{note} {source(result, 'replay.json')}"


def fuzz_log() -> str:
    """Outcomes of damaged logs by injury."""
    result = load("fuzz_log.json", COMMAND.format("fuzz_log"))
    kinds = sorted({name.split(": ")[0] for name in result["outcomes"]})
    ends = ("refused", "cut", "whole")
    rows = [
        [kind, *(f"{result['outcomes'].get(f'{kind}: {end}', 0):,}" for end in ends)]
        for kind in kinds
    ]
    note = (
        f"{result['count']:,} damaged logs by their first injury: refused for their head, cut "
        "at the first record that is damaged, or whole (nothing, or whole records at the end, "
        "were lost). In none a record was read that had not been written."
    )
    return f"{markdown(['injury', *ends], rows)}\n\n{note} {source(result, 'fuzz_log.json')}"


BLOCKS = {"replay": replay, "fuzz_log": fuzz_log}
