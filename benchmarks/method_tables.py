"""Tables of the whole method: an adapter's peak memory, and the loop with SmolLM2 on a CPU."""

from __future__ import annotations

from bench_tables import memory
from document import load, markdown, source

PEAK, LOOP = "adapter_memory_cpu.json", "smollm2_cpu.json"
SAID = ("loss", "reward", "kl", "pairs")


def adapter_memory() -> str:
    """Peaks of a step on an adapter over the same batch's forward."""
    result = load(PEAK, "python benchmarks/bench_memory.py --device cpu")
    return f"{memory(result)} {source(result, PEAK)}"


def smollm2() -> str:
    """A row a phase of the loop."""
    result = load(LOOP, "python benchmarks/smollm2_loop.py")
    rows = []
    for name, phase in result["phases"].items():
        told = [f"{n} {phase[n]:.3g}" for n in SAID if phase.get(n) is not None]
        moved = [f"{n.split('_')[0]} by {phase[n]:.3g}" for n in phase if n.endswith("update_norm")]
        seconds = f"{phase['seconds']:.0f}" if "seconds" in phase else ""
        rows.append([f"`{name}`", phase["steps"] or "", ", ".join(told + moved), seconds])
    head = ["phase", "steps", "last logged", "seconds"]
    note = (
        f"{result['cpu_seconds']:.0f} CPU seconds in all, one thread; peak resident memory "
        f"{result['peak_mb']:.0f} MB, Python and its libraries included. It shows that the loop "
        "runs, not that so few steps learn. Seconds were measured beside other work."
    )
    return f"{markdown(head, rows)}\n\n{note} {source(result, LOOP)}"


BLOCKS = {"adapter_memory": adapter_memory, "smollm2": smollm2}
