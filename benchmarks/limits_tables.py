"""Tables of limits.json: what bounds the GPU kernels, and the goals against that model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from document import load, markdown, source

Record = dict[str, Any]
COMMAND = "python benchmarks/limits.py"
BETWEEN = " / "  # devices' figures in one cell


def share(form: Record) -> str:
    said = f"{form['predicted_share']:.2f}"
    return said if form["measured_share"] is None else f"{said} ({form['measured_share']:.2f})"


def grouped(result: Record) -> dict[tuple, list[Record]]:
    """(backend, kernel, dtype, seeds) -> its forms, one a device, in the devices' order."""
    found: dict[tuple, list[Record]] = {}
    for f in result["forms"]:
        found.setdefault((f["backend"], f["kernel"], f["dtype"], f["seeds"]), []).append(f)
    return found


def limits() -> str:
    result = load("limits.json", COMMAND)
    names = BETWEEN.join(d["name"] for d in result["devices"])
    rows = []
    for (backend, kernel, dtype, seeds), forms in sorted(grouped(result).items()):
        first = forms[0]
        pipes = BETWEEN.join(f"{first['pipes'][p]:.1f}" for p in ("fma", "alu", "lsu", "other"))
        rows.append(
            [backend, kernel.removeprefix("many "), seeds, dtype, f"{first['bytes']:.4g}",
             f"{first['instructions']:.1f}", pipes, f"{first['bytes_in_flight'] / 1024:.0f}",
             BETWEEN.join(f"{f['issue_ps'] / f['memory_ps']:.2f}" for f in forms),
             BETWEEN.join(share(f) for f in forms)]
        )  # fmt: skip
    head = ["backend", "pass", "seeds", "dtype", "bytes", "instructions", "FMA / ALU / LSU / other",
            "KiB in flight an SM", f"issue over memory, {names}",
            f"share of a copy, predicted, {names}"]  # fmt: skip
    assumed, small = result["assumed"], result["small_tensors"]
    held = BETWEEN.join(f"{s['warps_held']:,}" for s in small)
    tail = max(f["tail_of_2^30"] for f in result["forms"] if f["backend"] == "cuda")
    need = BETWEEN.join(f"{f['bytes_needed'] / 1024:.0f}" for f in grouped(result)[
        "cuda", "signs", "bf16", 1])  # fmt: skip
    note = (
        "Bytes and instructions are an element's; all shares are predicted (a measured one stands "
        "in brackets): limits by bandwidth, by the slowest of issue and pipes, and by the loads in "
        f"flight. A pass in place needs {need} KiB of them an SM. Assumed: a copy reaches "
        f"{assumed['copy_share']:g} of the published bandwidth; an H100 needs "
        f"{assumed['h100_bytes_in_flight'] // 1024} KiB in flight an SM for a copy. The last, "
        f"partial round of the grid costs at most {100 * tail:.1f} % of 2^30 elements. "
        f"{small[0]['tensors']} tensors of 16 x 64 are one round: the devices hold {held} warps."
    )
    return f"{markdown(head, rows)}\n\n{note} {source(result, 'limits.json')}"


def of(result: Record, *form: Any) -> str:
    return BETWEEN.join(share(f) for f in grouped(result)[form])


def seeds_over_one(result: Record, backend: str, dtype: str) -> str:
    found = grouped(result)
    one, eight = (found[backend, k, dtype, n] for k, n in (("signs", 1), ("many signs", 8)))
    return BETWEEN.join(
        f"{b['predicted_ps'] / a['predicted_ps']:.2f}" for a, b in zip(one, eight, strict=True)
    )


def limits_goals() -> str:
    result = load("limits.json", COMMAND)
    steps, assumed, found = result["steps"], result["assumed"], grouped(result)
    names = BETWEEN.join(d["name"] for d in result["devices"])

    def told(key: str, form: str) -> str:
        return BETWEEN.join(f"{s[key]:{form}}" for s in steps)

    triton = BETWEEN.join(
        f"{t['predicted_share'] / c['predicted_share']:.2f}"
        for t, c in zip(
            found["triton", "signs", "bf16", 1], found["cuda", "signs", "bf16", 1], strict=True
        )
    )
    rows = [
        [f"{told_as}, share of a copy", goal, of(result, "cuda", kernel, dtype, 1)]
        for told_as, goal, kernel, dtype in (
            ("sign pass, fp32", "0.95", "signs", "fp32"),
            ("sign pass, bf16", "0.95", "signs", "bf16"),
            ("Gaussian pass, bf16", "0.90", "gaussian", "bf16"),
            ("targeted sign pass, bf16", "0.90", "targeted signs", "bf16"),
        )
    ]
    rows += [
        ["Triton over CUDA, sign pass, bf16", "0.9", triton],
        ["8 sign seeds over one, bf16, time", "under 1.3", seeds_over_one(result, "cuda", "bf16")],
        ["the same in Triton", "under 1.3", seeds_over_one(result, "triton", "bf16")],
        ["traffic of a step, times MeZO's speed, two passes", "8", told("times_mezo_two", ".1f")],
        ["the same, three passes", "8", told("times_mezo_three", ".1f")],
        ["step over its two forwards, two passes", "1.03", told("over_forwards_two", ".3f")],
        ["the same, three passes", "1.03", told("over_forwards_three", ".3f")],
        ["peak memory over inference, in place", "1.01", told("peak_over_inference", ".4f")],
    ]  # fmt: skip
    note = (
        f"All predicted: upper bounds, which no measurement has met yet unless in brackets. Steps: "
        f"{assumed['weights'] / 1e9:.2f} G weights in bf16, in place with stochastic rounding, "
        f"16 x 512 tokens; a forward is assumed, without a measurement, to reach "
        f"{assumed['forward_utilisation']:g} of the published bf16 peak (what a step takes over "
        "its forwards grows in proportion to it); MeZO "
        f"moves {assumed['mezo_copies']} copies of the weights a step by its kernels' bytes alone "
        f"(its generator's instructions left out), ours {assumed['copies'][0]}, or "
        f"{assumed['copies'][1]} where the next perturbation rides on the update."
    )
    head = ["", "goal", f"predicted, {names}"]
    return f"{markdown(head, rows)}\n\n{note} {source(result, 'limits.json')}"


BLOCKS: dict[str, Callable[[], str]] = {"limits": limits, "limits_goals": limits_goals}
