"""Tables of kills and soak."""

from __future__ import annotations

from document import load, markdown, source

COMMAND = "python benchmarks/{0}.py --json benchmarks/results/{0}.json"


def kills() -> str:
    """What was lost over all kills, of each plan."""
    r = load("kills.json", COMMAND.format("kills"))
    plans = r.get("plans", [r])
    head = ["run", "kills", "inside a step", "differing bits", "differing lines of metrics",
            "zeroth-order steps done again, at most", "logs replayed to the bit"]  # fmt: skip
    rows = [
        [p.get("plan", "adapter, copied"), p["kills"], p.get("killed inside a step", "not counted"),
         p["differing bits"], p["differing metrics"],
         max(p["steps done again, zeroth-order"], default=0),
         p.get("logs replayed to the bit", "not done")]
        for p in plans
    ]  # fmt: skip
    note = (
        f"SIGKILL at random instants over {sum(p['runs'] for p in plans)} runs of `zopro train` on "
        "a tiny model, each compared with an unbroken one."
    )
    for p in plans:
        if "plan" in p:  # an older record took a start's last phase for its own
            where = ", ".join(f"{place} {count}" for place, count in p["killed in"].items())
            note += f" Killed ({p['plan']}): {where}."
    return f"{markdown(head, [[str(x) for x in row] for row in rows])}\n\n{note} " + source(
        r, "kills.json"
    )


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
