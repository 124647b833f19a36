"""Tables of sketch.json and sketch_measures.json: what sketches cost, and how exact they are."""

from __future__ import annotations

from document import load, markdown, source

COMMAND = "python benchmarks/sketch.py"
MEASURES = "python benchmarks/sketch_measures.py"
KINDS = {
    "random": "random",
    "correlated": "correlated (cosines up to {greatest_cosine:.2f})",
    "outliers": "LoRA factors with outlier columns, one in 410, 20 times as large",
}


def sketch_cost() -> str:
    """A row a dtype."""
    result = load("sketch.json", COMMAND)
    head = ["weights", "read, s", "sketch, s", "sketch over read",
            "the same, one thread's processor time"]  # fmt: skip
    rows = [
        [
            f"{t['numel'] / 1e9:.2f} billion {t['dtype']}",
            f"{t['read']['median_s']:.2f}",
            f"{t['sketch']['median_s']:.2f} ({t['sketch']['low_s']:.2f} to "
            f"{t['sketch']['high_s']:.2f})",
            f"{t['ratio']:.2f}",
            f"{t['one_thread_ratio']:.2f} ({t['one_thread_ns']:.2f} ns an element)",
        ]
        for t in result["times"]
    ]
    extra = max(t["extra_bytes"] for t in result["times"])
    load_then = result["load"] or 0.0
    busy = ""
    if load_then > 0.5:
        busy = (
            f" Other work kept the machine busy meanwhile (load average {load_then:.1f} at the "
            "start), which stretches both times; the processor time is the steadier measure."
        )
    note = (
        f"A sketch of 8,192 numbers with {result['times'][0]['threads']} threads, over a plain "
        "read of the same weights in the same run: medians of pairs, with the quartiles. Memory "
        f"beside the weights: at most {extra / 1e6:.0f} MB.{busy}"
    )
    return f"{markdown(head, rows)}\n\n{note} {source(result, 'sketch.json')}"


def sketch_error() -> str:
    """A row a kind of vectors and a size of the sketch."""
    result = load("sketch.json", COMMAND)
    head = ["vectors", "numbers", "root mean square error", "over the stated one",
            "99 % are within", "greatest"]  # fmt: skip
    rows = [
        [
            KINDS[e["kind"]].format(**e),
            f"{e['dim']:,}",
            f"{e['rms']:.4f}",
            f"{e['over_stated']:.2f}",
            f"{e['at_99_percent']:.4f}",
            f"{e['greatest']:.4f}",
        ]
        for e in result["errors"]
    ]
    pairs = min(e["pairs"] for e in result["errors"])
    note = (
        f"Error of the cosine between two vectors of 49,152 elements, over {pairs:,} pairs and "
        "seeds a row; the stated one is (1 - c^2) / sqrt(numbers)."
    )
    return f"{markdown(head, rows)}\n\n{note} {source(result, 'sketch.json')}"


def sketch_measures() -> str:
    """A row a measure, over all layers together; and the worst over the layers."""
    result = load("sketch_measures.json", MEASURES)
    rows = []
    for row in (r for r in result["rows"] if r["layer"] is None):
        same = [r for r in result["rows"] if r["layer"] and r["name"] == row["name"]]
        layers = [r["greatest_over_stated"] for r in same]
        over = row.get("greatest_over_stated")
        rows.append([
            f"`{row['name']}`", row["values"], f"{row['exact']:.4f}", f"{row['sketched']:.4f}",
            f"{row['chance']:.4f}", f"{row['greatest_off']:.4f}",
            "" if over is None else f"{over:.1f}", f"{max(layers):.1f}" if layers else "",
        ])  # fmt: skip
    head = ["measure", "values", "mean, exact weights", "mean, sketches", "by chance",
            "greatest difference", "over the stated error", "the same, worst layer"]  # fmt: skip
    numel = next(iter(result["elements"].values()))
    count = sum(result["snapshots"].values())
    note = (
        f"A run of three iterations on the small translation model, {numel:,} LoRA weights of the "
        f"policy and as many of the reward model, {count} snapshots: {result['bytes'] / 1e6:.1f} "
        f"MB of sketches for {result['exact_bytes'] / 1e6:.0f} MB of weights. Differences are "
        "the greatest of all values, also over the stated standard error of each; shares are "
        "squares, whose errors have longer tails than the normal law's."
    )
    return f"{markdown(head, rows)}\n\n{note} {source(result, 'sketch_measures.json')}"


BLOCKS = {
    "sketch_cost": sketch_cost,
    "sketch_error": sketch_error,
    "sketch_measures": sketch_measures,
}
