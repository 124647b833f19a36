"""Tables of kills and soak."""

from __future__ import annotations

from document import load, markdown, source

COMMAND = "python benchmarks/{0}.py --json benchmarks/results/{0}.json"


def kills() -> str:
    """What was lost over all kills."""
    r = load("kills.json", COMMAND.format("kills"))
    again = r["steps done again, zeroth-order"]
    head = ["kills", "differing bits", "differing lines of metrics",
            "zeroth-order steps done again, at most"]  # fmt: skip
    row = [r["kills"], r["differing bits"], r["differing metrics"], max(again, default=0)]
    where = ", ".join(f"{phase} {count}" for phase, count in r["killed in"].items())
    note = (
        f"SIGKILL at random instants over {r['runs']} runs of `zopro train` on a tiny model, each "
        f"compared with an unbroken one. Killed in: {where}."
    )
    return f"{markdown(head, [[str(x) for x in row]])}\n\n{note} {source(r, 'kills.json')}"


def soak() -> str:
    """Bits and memory of each run."""
    result = load("soak.json", COMMAND.format("soak"))
    head = ["weights", "dtype", "steps", "bytes changed", "memory grown after a tenth, MB",
            "bytes of log a step"]  # fmt: skip
    rows = [
        [r["weights"], r["dtype"], f"{r['steps']:,}", str(r["bytes changed"]),
         f"{r['growth after the first tenth, MB']:.2f}", f"{r['bytes a step of log']:.0f}"]
        for r in result["runs"]
    ]  # fmt: skip
    note = 'lr 0, restore="exact", a small network.'
    return f"{markdown(head, rows)}\n\n{note} {source(result, 'soak.json')}"


BLOCKS = {"kills": kills, "soak": soak}
