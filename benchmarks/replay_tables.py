"""Tables of docs/replay.md."""

from __future__ import annotations

from collections import Counter

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
        "in fp32, 8 bits and bf16) by their first injury: refused for their head; cut at the "
        "first record that is damaged; shorter, because they end where a record ends, of which "
        "nothing in a log tells; or whole. In none a record was read that had not been written, "
        "and what was read replays to the run's weights. Forged: other values under right "
        "checksums, against which a log has no defence but its marks; where they were read, the "
        "replay was refused (a mark, or what cannot be) or ended, with the run's weights at each "
        "mark of the run that came last."
    )
    return f"{markdown(['injury', *ends], rows)}\n\n{note} {source(result, 'fuzz_log.json')}"


BLOCKS = {"replay": replay, "fuzz_log": fuzz_log}
