"""Tables of bench_pass, bench_step, bench_memory, bench_rollout and gpu_check."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from document import NotMeasured, load, markdown, source

COMMANDS = {"cpu": "make bench", "cuda": "make bench-gpu"}
NAMES = ("bench_pass", "bench_step", "bench_memory", "bench_rollout")
MB = 2**20
Record = dict[str, Any]


def block(name: str, device: str, make: Callable[[Record], str]) -> str:
    """What `make` says of the record, what was left out of it, and where it comes from."""
    result = load(f"{name}_{device}.json", COMMANDS[device])
    plot = f"![phases of a step](bench_step_{device}.svg)\n\n" if name == "bench_step" else ""
    left = "; ".join(f"{case}: {reason}" for case, reason in result["left_out"].items())
    told = f"Left out: {left}. " if left else ""
    return f"{plot}{make(result)} {told}{source(result, f'{name}_{device}.json')}"


def number(value: float | None, form: str = ".2f") -> str:
    return "" if value is None else format(value, form)


def largest(result: Record) -> list[Record]:
    """The passes over the largest single tensor."""
    single = [p for p in result["passes"] if p["tensors"] == 1]
    most = max(p["elements"] for p in single)
    return [p for p in single if p["elements"] == most]


def passes(result: Record) -> str:
    main = largest(result)
    rows = [
        [p["pass"], f"{p['elements_per_s'] / 1e9:.2f}", number(p.get("share of copy")),
         number(p["times mul_"]), number(p["times MeZO"], ".1f"),
         f"{100 * (p['high_s'] - p['low_s']) / p['median_s']:.0f} %"]
        for p in main
    ]  # fmt: skip
    head = ["pass", "10^9 elements / s", "share of a copy's bytes / s", "times `x.mul_`",
            "times MeZO's", "spread"]  # fmt: skip
    extra = result["extra_bytes"]
    memory = "" if extra is None else f" Extra memory of a pass: {extra:,} bytes."
    host = [p for p in result["passes"] if p["host_s"] and p["pass"] == "rademacher fp32 nearest"]
    waits = "".join(f" Host time of a sign pass, {p['layout']}: {1e6 * p['host_s']:.0f} us."
                    for p in host)  # fmt: skip
    note = (
        f"{main[0]['elements']:,} elements; medians of {main[0]['rounds']} rounds in one run (of "
        f"slow passes fewer, at least {min(p['rounds'] for p in main)}), on copies of the weights "
        "that together are over four times the last-level cache. The share counts the bytes that a "
        "pass has to move (of a targeted pass prev and v too); `x.mul_`, copy and MeZO are of the "
        "same dtype; spread is the distance of the quartiles over the median. MeZO (normal, "
        "multiply, add), foreach and torch.compile are re-created "
        f"from their operations.{memory}{waits}"
    )
    return f"{markdown(head, rows)}\n\n{layouts(result)}\n\n{note}"


def layouts(result: Record) -> str:
    """Every pass in every layout."""
    names = list(dict.fromkeys(p["layout"] for p in result["passes"]))
    found = {(p["pass"], p["layout"]): p["elements_per_s"] for p in result["passes"]}
    rows = [
        [name, *(number(found[name, n] / 1e9) if (name, n) in found else "" for n in names)]
        for name in dict.fromkeys(p["pass"] for p in result["passes"])
    ]
    return markdown(["10^9 elements / s", *names], rows)


def plan_of(row: Record) -> str:
    trained = {"full": "all weights", "lora": "LoRA"}[row["trained"]]
    return f"{row['parameters'] / 1e6:,.0f} M {row['dtype']}, {trained}"


def steps(result: Record) -> str:
    rows = [
        [plan_of(r), f"{r['batch']} x {r['length']}", r["case"], f"{r['median_s']:.3f}",
         f"{r['over_forwards']:.3f}",
         *(f"{1e3 * r['phases_s'][k]:.1f}" for k in ("perturb", "flip", "restore and update")),
         number(r["traffic_times_faster_than_mezo"], ".1f")]
        for r in result["steps"]
    ]  # fmt: skip
    head = ["model", "tokens", "step", "s", "over its two forwards alone", "perturb, ms",
            "flip, ms", "restore and update, ms", "weights' part, times MeZO's speed"]  # fmt: skip
    note = (
        "Llama shapes with random weights, two-sided, one direction. The ratio is to two forwards "
        "without perturbation, in turn with the step. bf16 weights are rounded stochastically, as "
        "by default, MeZO's to nearest; its loop is re-created from its operations."
    )
    return f"{markdown(head, rows)}\n\n{note}"


def memory(result: Record) -> str:
    rows = []
    for r in result["steps"]:
        shape, dtype, trained, tokens = r["plan"].split(":")
        rows.append(
            [f"{shape} {dtype}, {trained}", tokens.replace("x", " x "), r["way"],
             f"{r['peak_bytes'] / MB:,.0f}", number(r["over_forward"], ".3f"),
             f"{(r['peak_bytes'] - r['weights_bytes']) / MB:,.0f}"]
        )  # fmt: skip
    head = ["model", "tokens", "one step", "peak, MB", "over the forward", "beyond the weights, MB"]
    note = (
        "The peak of a second step with weights and optimizer state, over what was held before the "
        "model was made; the forward is one without a graph. Resident memory of a fresh process on "
        "a CPU, allocated device memory on a GPU."
    )
    return f"{markdown(head, rows)}\n\n{note}"


def rollouts(result: Record) -> str:
    rows = []
    for r in result["rollouts"]:
        shares = {k: 100 * s / r["step_s"] for k, s in r["seconds_a_step"].items()}
        rows.append(
            [f"{r['prompts']} x {r['responses']}", f"{r['tokens_per_s']:,.0f}",
             f"{r['tokens_per_s_of_generate']:,.0f}", f"{r['tokens_per_s_of_steps']:,.0f}",
             *(f"{shares.get(k, 0):.1f} %" for k in ("generation", "scoring", "perturbation"))]
        )  # fmt: skip
    first = result["rollouts"][0]
    head = ["prompts x responses", "generated tokens / s in the trainer", "by `model.generate`",
            "over whole steps", "generation", "scoring", "perturbation"]  # fmt: skip
    note = (
        f"ZOPrOTrainer, one two-sided direction a step, {first['parameters'] / 1e6:.1f} M "
        f"parameters ({first['shape']}, {first['dtype']}), responses of {first['tokens']} tokens."
    )
    return f"{markdown(head, rows)}\n\n{note}"


def correctness() -> str:
    bits = load("gpu_bits.json", COMMANDS["cuda"])
    tools = load("gpu_sanitizer.json", COMMANDS["cuda"])
    compared = {
        b: sum(r["elements"] for r in bits["bits"] if r["backend"] == b)
        for b in dict.fromkeys(r["backend"] for r in bits["bits"])
    }
    said = "; ".join(f"{b}: {n:,} elements equal to the reference's" for b, n in compared.items())
    found = "; ".join(f"{tool}: {s.splitlines()[0]}" for tool, s in tools["sanitizer"].items())
    return (
        f"- {said}. {source(bits, 'gpu_bits.json')}\n"
        f"- compute-sanitizer: {found}. {source(tools, 'gpu_sanitizer.json')}"
    )


def pass_told(name: str, result: Record) -> str:
    row = next(p for p in largest(result) if p["pass"] == name)
    mezo = f", {row['times MeZO']:.0f} times MeZO's" if row["times MeZO"] else ""
    return f"{row['share of copy']:.2f}, {row['times mul_']:.2f} of `x.mul_`{mezo}"


def step_told(result: Record) -> str:
    ours = [r for r in result["steps"] if r["case"] == "signs, in place"]
    row = max(ours, key=lambda r: (r["trained"] == "full", r["parameters"]))
    faster = row["traffic_times_faster_than_mezo"]
    mezo = f"; weights' part {faster:.1f} times MeZO's speed" if faster else ""
    return f"{row['over_forwards']:.3f} ({plan_of(row)}{mezo})"


def memory_told(result: Record) -> str:
    return _memory_of(result, ":full:", "ZOPrO in place")


def _memory_of(result: Record, trained: str, way: str) -> str:
    rows = [r for r in result["steps"] if trained in r["plan"]]
    ways = {r["way"]: r["over_forward"] for r in rows if r["plan"] == rows[0]["plan"]}
    return f"{number(ways.get(way), '.3f')} (AdamW: {number(ways.get('AdamW'), '.2f')})"


def rollout_told(result: Record) -> str:
    last = result["rollouts"][-1]
    share = last["tokens_per_s"] / last["tokens_per_s_of_generate"]
    return f"{last['tokens_per_s']:,.0f} ({share:.2f} of `model.generate`)"


SUMMARY: list[tuple[str, str, Callable[[Record], str]]] = [
    ("sign pass fp32, share of a copy's bytes / s", "bench_pass",
     partial(pass_told, "rademacher fp32 nearest")),
    ("sign pass bf16", "bench_pass", partial(pass_told, "rademacher bf16 nearest")),
    ("Gaussian pass fp32", "bench_pass", partial(pass_told, "gaussian fp32 nearest")),
    ("Gaussian pass bf16", "bench_pass", partial(pass_told, "gaussian bf16 nearest")),
    ("step over its two forwards alone", "bench_step", step_told),
    ("peak memory of a step in place over inference", "bench_memory", memory_told),
    ("generated tokens a second in the trainer", "bench_rollout", rollout_told),
]  # fmt: skip


def summary() -> str:
    """The headline of each record, a column for each device that has any."""
    records, missing, notes = {}, {}, []
    for device, command in COMMANDS.items():
        for name in NAMES:
            try:
                records[name, device] = load(f"{name}_{device}.json", command)
                notes.append(source(records[name, device], f"{name}_{device}.json"))
            except NotMeasured as told:
                missing[name, device] = str(told)
    devices = [d for d in COMMANDS if any(device == d for _, device in records)]
    notes += [f"{d.upper()}: {missing[NAMES[0], d]}" for d in COMMANDS if d not in devices]
    rows = [
        [what, *(missing.get((name, d)) or told(records[name, d]) for d in devices)]
        for what, name, told in SUMMARY
    ]
    table = [markdown(["", *map(str.upper, devices)], rows), ""] if devices else []
    return "\n".join([*table, *(f"- {note}" for note in notes)])


MAKERS = dict(zip(NAMES, (passes, steps, memory, rollouts)))
BLOCKS: dict[str, Callable[[], str]] = {
    **{f"{n}_{d}": partial(block, n, d, make) for n, make in MAKERS.items() for d in COMMANDS},
    "bench_summary": summary,
    "gpu_correctness": correctness,
}
