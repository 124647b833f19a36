"""Tables of docs/restore.md."""

from __future__ import annotations

from document import NotMeasured, load, markdown, source

COMMAND = "python benchmarks/exact_restore.py"
EXACT, SMALL = "exact_restore.json", "small_updates.json"


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
    """Memory and time of "layerwise" beside "inplace"."""
    result, found = _part("time")
    rows = [
        [r["plan"], *(f"{r['seconds'][n]:.2f}" for n in ("two forwards", "inplace", "layerwise")),
         f"{r['layerwise over in place']:.3f}"]
        for r in found
    ]  # fmt: skip
    head = ["shape : dtype : batch x tokens", "two forwards, s", "step in place, s",
            "step layerwise, s", "ratio"]  # fmt: skip
    peaks: dict[str, dict[str, int]] = {}
    for r in result["memory"]:
        peaks.setdefault(r["plan"], {})[r["way"]] = r["peak_bytes"]
        peaks[r["plan"]]["layer"] = r["layer_bytes"]
    notes = [
        f"Peak memory of {plan}: {(w['layerwise'] - w['inplace']) / 1e6:+.0f} MB over in place; "
        f"the largest module has {w['layer'] / 1e6:.0f} MB."
        for plan, w in peaks.items()
    ]
    notes += [
        f"{r['plan']} ran beside other work (load average {r['load']:.0f}): its times are upper "
        "bounds."
        for r in found
        if r.get("load", 0.0) > 1.5
    ]
    note = " ".join(["CPU time of one thread, signs.", *notes])
    return f"{markdown(head, rows)}\n\n{note} {source(result, EXACT)}"


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


BLOCKS = {
    "restore_bits": restore_bits, "restore_cost": restore_cost, "small_movement": small_movement,
    "small_trajectory": small_trajectory,
}  # fmt: skip
