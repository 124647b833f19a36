"""What a whole optimizer step costs beside its two forwards alone, and beside MeZO's step.

    python benchmarks/bench_step.py [--plan 135m:fp32:full:2x32 ...] [--device cpu]

On a Llama of a published shape with random weights (shapes.py), two-sided, one direction. Each case
runs in turn with the two forwards alone (no_grad, the same batch), round after round; the ratio is
the median of the rounds' own. Phases are cut where the closure begins and ends: to the first
forward (with a targeted direction's reduction), between the two, and after the second (restore and
update). On a GPU the cuts are events, so nothing waits inside a step. With lookahead
the update leads to the next step's perturbation. "captured" (CUDA alone) replays a CUDA graph of
the whole step, which cannot be cut: what it takes over the two forwards alone counts as restore and
update. MeZO's loop is re-created from its operations (peers.py).
"""

from __future__ import annotations

import itertools
import statistics
import sys
from collections.abc import Callable
from typing import Any

import peers
import shapes
import torch
from harness import Cases, Marks, options, parsed, spread
from torch import Tensor

from zopro import ZOPrO

PLANS = {
    "cpu": ["135m:fp32:full:2x32", "135m:fp32:lora:2x32", "135m:bf16:full:2x32"],
    "cuda": [
        "135m:bf16:full:16x512", "1b:bf16:full:16x512", "1b:bf16:lora:16x512", "8b:bf16:lora:16x512"
    ],
}  # fmt: skip
ROUNDS = {"cpu": 3, "cuda": 4}  # beside one that warms up
# Name -> options of ZOPrO, and whether it is targeted; MeZO's step comes after them.
CASES = {
    "signs, in place": {"restore": "inplace"},
    "signs, lookahead": {"lookahead": True},
    "signs, exact": {"restore": "exact"},
    "Gaussian, in place": {"restore": "inplace", "distribution": "gaussian"},
    "targeted signs, in place": {"restore": "inplace", "targeted": True},
    "targeted Gaussian, in place": {
        "restore": "inplace", "distribution": "gaussian", "targeted": True
    },
}  # fmt: skip
CAPTURED = {"signs, captured": {"restore": "inplace", "capturable": True}}  # where there is CUDA
MEZO = "MeZO"
LR, EPS = 1e-6, 1e-3
Step = Callable[[Callable[[], Tensor]], Any]


def stepper(case: str, params: list[Tensor]) -> Step:
    """One step of `case` over `params`, which it writes in place, as a function of the loss."""
    if case == MEZO:
        seeds = itertools.count()
        return lambda loss: peers.mezo_step(params, loss, LR, EPS, next(seeds))
    options = {**CASES, **CAPTURED}[case]
    targeted = options.get("targeted", False)
    opt = ZOPrO(params, lr=LR, eps=EPS, **{k: v for k, v in options.items() if k != "targeted"})
    if targeted:
        update = [torch.randn_like(p, dtype=torch.float32) for p in params]
        opt.set_targets(update, update, schedule="constant")
    return opt.step


def replayed(step: Step, loss: Callable[[], Tensor]) -> Callable[[], None]:
    """A step as the replay of a CUDA graph, captured after two steps on another stream."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        step(loss), step(loss)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step(loss)
    return graph.replay


def phases_of(gaps: list[float], forwards: float) -> dict[str, float]:
    """Seconds by phase, from those between the marks of a step: around and inside two forwards, or
    around the whole; `forwards`: of the two alone."""
    if len(gaps) == 1:
        return {"forwards": forwards, "perturb": 0.0, "flip": 0.0,
                "restore and update": gaps[0] - forwards}  # fmt: skip
    first, plus, between, minus, last = gaps
    return {"forwards": plus + minus, "perturb": first, "flip": between,
            "restore and update": last}  # fmt: skip


def measure_case(
    case: str, model: torch.nn.Module, batch: dict[str, Tensor], device: str, rounds: int
) -> dict[str, Any]:
    """Spread of a step's seconds, its ratio to the two forwards alone, medians of its phases."""
    step, marks = stepper(case, shapes.trainable(model)), Marks(device)

    def forward() -> Tensor:
        return model(**batch).loss

    def loss() -> Tensor:
        marks()
        value = forward()
        marks()
        return value

    graph = replayed(step, forward) if case in CAPTURED else None
    steps, alone, phases = [], [], []
    for turn in range(-1, rounds):
        with torch.no_grad():
            loss(), loss()
            forwards = marks.seconds()
            marks()
            graph() if graph else step(loss)
            marks()
        found = phases_of(marks.seconds(), forwards[0] + forwards[2])
        if turn >= 0:  # the first round warms up
            phases.append(found)
            steps.append(sum(found.values()))
            alone.append(forwards[0] + forwards[2])
    ratios = [s / f for s, f in zip(steps, alone, strict=True)]
    medians = {k: statistics.median(p[k] for p in phases) for k in phases[0]}
    return {
        "case": case, **spread(steps), "forwards_alone_s": statistics.median(alone),
        "over_forwards": statistics.median(ratios), "phases_s": medians,
        "traffic_s": sum(s for phase, s in medians.items() if phase != "forwards"),
    }  # fmt: skip


def measure_plan(plan: str, device: str, rounds: int, cases: Cases) -> list[dict[str, Any]]:
    """One row a case on the model of `plan`, SHAPE:DTYPE:full|lora:BATCHxLENGTH."""
    shape, dtype, trained, size = plan.split(":")
    size, length = map(int, size.split("x"))
    model = shapes.build(shape, dtype, device, trained)
    batch = shapes.batch_of(shape, size, length, device)
    params = shapes.trainable(model)
    common = {
        "shape": shape, "dtype": dtype, "trained": trained, "batch": size, "length": length,
        "parameters": sum(p.numel() for p in model.parameters()),
        "trainable": sum(p.numel() for p in params), "tensors": len(params), "rounds": rounds,
    }  # fmt: skip
    rows = []
    for case in (*CASES, *(CAPTURED if device == "cuda" else ()), MEZO):
        found = cases.run(f"{plan}, {case}", measure_case, case, model, batch, device, rounds)
        if found:
            rows.append({**common, **found})
            print(
                f"{plan:24} {case:28} {found['median_s']:8.3f} s, {found['over_forwards']:6.3f} of "
                f"two forwards; weights {1e3 * found['traffic_s']:9.2f} ms"
            )
    theirs = next((r["traffic_s"] for r in rows if r["case"] == MEZO), None)
    for row in rows:
        row["traffic_times_faster_than_mezo"] = theirs and theirs / row["traffic_s"]
    return rows


def main() -> int:
    parser = options(__doc__, budget=150)
    parser.add_argument("--plan", nargs="+", help="SHAPE:DTYPE:full|lora:BATCHxLENGTH; shapes: "
                        f"{', '.join(shapes.SHAPES)}")  # fmt: skip
    parser.add_argument("--rounds", type=int, help=f"of each case; default {ROUNDS}")
    args = parsed(parser)
    cases, rows = Cases(args.budget), []
    rounds = args.rounds or ROUNDS[args.device]
    for plan in args.plan or PLANS[args.device]:
        rows += cases.run(plan, measure_plan, plan, args.device, rounds, cases) or []
    return cases.finish(args, "bench_step", {"steps": rows})


if __name__ == "__main__":
    sys.exit(main())
