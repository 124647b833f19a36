"""Tables of docs/restore.md."""

from __future__ import annotations

from document import NotMeasured, load, markdown, source

COMMAND = "python benchmarks/exact_restore.py"
EXACT, SMALL, TWINS = "exact_restore.json", "small_updates.json", "small_twins.json"


def _part(name: str) -> tuple[dict, list[dict]]:
    result = load(EXACT, COMMAND)
    if not result[name]:
        raise NotMeasured(f"not measured yet: run `{COMMAND} --part {name}`")
    return result, result[name]


def restore_bits() -> str:
    """Steps that should change nothing."""
    result, found = _part("bits")
    rows = [
        [r["restore"], {"full": "all weights", "lora": "adapter"}[r["trained"]], r["dtype"],
         f"{r['steps']:,}", f"{r['bytes changed']:,}"]
        for r in found
    ]  # fmt: skip
    head = ["restore", "trained", "dtype", "steps, lr = 0", "bytes changed"]
    return f"{markdown(head, rows)}\n\n{source(result, EXACT)}"


def restore_cost() -> str:
    """Memory and time of the exact ways beside "inplace"."""
    result, found = _part("time")
    rows = []
    for r in found:
        way = r.get("way", "layerwise")
        seconds = [f"{r['seconds'][n]:.2f}" for n in ("two forwards", "inplace", way)]
        ratio = r["seconds"][way] / r["seconds"]["inplace"]
        rows.append([r["plan"], way, *seconds, f"{ratio:.3f}"])
    head = ["shape : dtype : batch x tokens", "restore", "two forwards, s", "step in place, s",
            "step so, s", "ratio"]  # fmt: skip
    peaks: dict[str, dict[str, dict]] = {}
    for r in result["memory"]:
        peaks.setdefault(r["plan"], {})[r["way"]] = r
    notes = [_peak(plan, of) for plan, of in peaks.items()]
    notes += [
        f"{r['plan']} ran beside other work (load average {r['load']:.0f}): its times are upper "
        "bounds."
        for r in found
        if r.get("load", 0.0) > 1.5
    ]
    note = " ".join(["CPU time of one thread, signs.", *notes])
    return f"{markdown(head, rows)}\n\n{note} {source(result, EXACT)}"


def _peak(plan: str, of: dict[str, dict]) -> str:
    (way,) = of.keys() - {"inplace"}
    r = of[way]
    extra = (r["peak_bytes"] - of["inplace"]["peak_bytes"]) / 1e6
    has = f"the largest module has {r['layer_bytes'] / 1e6:.0f} MB"
    if r.get("held_bytes"):
        has += f", the head that is held {r['held_bytes'] / 1e6:.0f} MB"
    if way == "exact":
        has = f"the adapter has {r['trained_bytes'] / 1e6:.0f} MB"
    return f"Peak memory of {plan}, {way}: {extra:+.0f} MB over in place; {has}."


def small_movement() -> str:
    """What arrives of updates far below a unit in the last place."""
    result = load(SMALL, "python benchmarks/small_updates.py")
    rows = [
        [r["dtype"], r["rounding"], f"{r['share_of_fp32']:.3f} ± {r['share_error']:.3f}",
         f"{r['mean_difference_over_error']:+.1f}", f"{100 * r['never_moved']:.0f} %"]
        for r in result["movement"]
    ]  # fmt: skip
    head = ["dtype", "rounding", "share of fp32's movement", "mean difference / its s.e.",
            "weights that never moved"]  # fmt: skip
    first = result["movement"][0]
    note = (
        f"{result['numel']:,} weights ~ N(0, 0.02), {first['steps']:,} steps with updates of "
        f"{first['update_over_unit']:g} of the unit of a weight of 0.02; ± standard errors."
    )
    return f"{markdown(head, rows)}\n\n{note} {source(result, SMALL)}"


def small_trajectory() -> str:
    """Twins in 16 bits fed the slopes of an fp32 run."""
    result = load(SMALL, "python benchmarks/small_updates.py")
    rows = [
        [r["dtype"], r["rounding"], f"{r['share_of_way']:.3f}", f"{r['distance_over_way']:.2f}",
         f"{r['distance_over_weights']:.4f}", f"{r['loss']:.4f}"]
        for r in result["trajectory"]
    ]  # fmt: skip
    head = ["dtype", "rounding", "share of fp32's way", "distance / way", "distance / weights",
            "loss"]  # fmt: skip
    r = result["trajectory"][0]
    note = (
        f"All {r['weights']:,} weights of the small model, {r['steps']:,} steps, "
        f"lr {r['lr']:g}; the twins are fed the slopes of the fp32 run, whose loss goes from "
        f"{r['loss_before']:.4f} to {r['loss_fp32']:.4f}."
    )
    return f"{markdown(head, rows)}\n\n{note} {source(result, SMALL)}"


def small_twins() -> str:
    """Twins in 16 bits on their own losses."""
    result = load(TWINS, "python benchmarks/small_twins.py")
    rows = [
        [r["dtype"], f"{r['to_fp32']:.2f}", f"{r['to_each_other']:.2f}",
         f"{r['to_fp32_over_each_other']:.2f}",
         f"{r['loss_difference']:+.4f} ± {r['loss_difference_half']:.4f}"]
        for r in result["twins"]
    ]  # fmt: skip
    head = ["dtype", "distance to fp32 / way", "to each other / way", "ratio",
            "held-out loss minus fp32's"]  # fmt: skip
    r = result["twins"][0]
    note = (
        f"All {result['weights']:,} weights of the small model, {r['steps']:,} steps, lr "
        f"{r['lr']:g}, means over {r['seeds']} seeds, ± half of the 95 % interval; the fp32 run "
        f"lowers the held-out loss by {r['fp32_gain']:.4f}."
    )
    return f"{markdown(head, rows)}\n\n{note} {source(result, TWINS)}"


BLOCKS = {
    "restore_bits": restore_bits, "restore_cost": restore_cost, "small_movement": small_movement,
    "small_trajectory": small_trajectory, "small_twins": small_twins,
}  # fmt: skip
