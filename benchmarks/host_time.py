"""Host time of a pass: what Python does before the kernel starts, for 1, 30 and 300 tensors.

The kernel of the backend "cpu" is replaced by one that does nothing, so on a CPU, too, it is the
host's part alone that is timed: CPU time of this thread, least of many short rounds, which others'
load on the machine disturbs least. "over kernels" is a step without what its kernels' own calls
take: three passes whose scalars are there, and a targeted direction's reduction.

    python benchmarks/host_time.py
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from types import SimpleNamespace

import harness
import torch

import zopro_kernels as zk
from zopro import ZOPrO
from zopro_kernels import cpu

COUNTS = (1, 30, 300)
SHAPE = (16, 64)  # of a small adapter's matrix
ROUNDS, CALLS = 60, 20


def idle(monkey: Callable[[object, str, object], None] = setattr) -> None:
    """The backend "cpu" with kernels that do nothing."""
    nothing = SimpleNamespace(
        LAW=zk.LAW, add_noise=lambda *_: None, noise_dots=lambda *_: None,
        instruction_set=lambda: "none",
    )  # fmt: skip
    monkey(cpu, "_native", nothing)


def microseconds(function: Callable[[], object], rounds: int = ROUNDS) -> float:
    """CPU time of one call on this thread, the least of `rounds` means."""
    best = float("inf")
    for _ in range(rounds):
        start = time.thread_time()
        for _ in range(CALLS):
            function()
        best = min(best, (time.thread_time() - start) / CALLS)
    return 1e6 * best


def adapters(count: int) -> list[torch.nn.Parameter]:
    return [torch.nn.Parameter(torch.randn(SHAPE)) for _ in range(count)]


def prepared_pass(count: int, targeted: bool) -> Callable[[], None]:
    """`zk.add_noise_` on a TensorSet, seeds and coefficients from the host."""
    beside = {name: [torch.randn(SHAPE) for _ in range(count)] for name in ("prev", "v")}
    tensors = zk.TensorSet(adapters(count), **(beside if targeted else {}))
    more = {"prev_coeffs": 0.5, "v_coeffs": 0.25} if targeted else {}
    return lambda: zk.add_noise_(tensors, [7], [1e-3], backend="cpu", **more)


def scalars_pass(count: int, targeted: bool) -> Callable[[], None]:
    """`TensorSet.add_noise_`, whose scalars are there already."""
    beside = {name: [torch.randn(SHAPE) for _ in range(count)] for name in ("prev", "v")}
    tensors = zk.TensorSet(adapters(count), **(beside if targeted else {}))
    integers, floats = torch.tensor([0, 7, 0]), torch.ones(count, 5)
    return lambda: tensors.add_noise_(integers, floats, backend="cpu")


def list_pass(count: int, targeted: bool) -> Callable[[], None]:
    """`zk.add_noise_` on a plain list: everything is checked each time."""
    beside = {name: [torch.randn(SHAPE) for _ in range(count)] for name in ("prev", "v")}
    tensors, more = adapters(count), {}
    if targeted:
        more = {**beside, "prev_coeffs": 0.5, "v_coeffs": 0.25}
    return lambda: zk.add_noise_(tensors, [7], [1e-3], backend="cpu", **more)


def dots(count: int, targeted: bool) -> Callable[[], object]:
    """`zk.noise_dots` on a TensorSet with known norms; nothing for a plain direction."""
    vectors, norms = zk.TensorSet(adapters(count)), torch.ones(count, dtype=torch.float64)
    return (lambda: zk.noise_dots(vectors, 7, norms=norms, backend="cpu")) if targeted else int


def optimizer(count: int, targeted: bool) -> ZOPrO:
    params = adapters(count)
    opt = ZOPrO(params, backend="cpu", restore="inplace", distribution="rademacher")
    if targeted:
        updates = [torch.randn(SHAPE) for _ in params]
        opt.set_targets(updates, updates, schedule="constant")
    return opt


def write(count: int, targeted: bool) -> Callable[[], None]:
    """The optimizer's pass from theta + eps z to theta - eps z or back, along a direction whose
    scalars are known from a step before (a targeted one's: from an estimate before)."""
    opt = optimizer(count, targeted)
    plan = opt._current_plan()
    (direction,) = plan.directions
    scales = [plan.multiples[1], plan.multiples[-1]]

    def move() -> None:
        scales.reverse()
        opt._weights.move(plan, direction, scales[0])

    return move


def step(count: int, targeted: bool) -> Callable[[], None]:
    """A whole two-sided step, its closure apart."""
    opt = optimizer(count, targeted)
    loss = torch.tensor(1.0)
    return lambda: opt.step(lambda: loss)


WAYS = {"prepared": prepared_pass, "scalars": scalars_pass, "list": list_pass, "dots": dots,
        "write": write, "step": step}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", default=str(harness.RESULTS / "host_time.json"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    idle()
    rows = []
    for targeted in (False, True):
        for count in COUNTS:
            times = {name: microseconds(way(count, targeted)) for name, way in WAYS.items()}
            times["over kernels"] = times["step"] - 3 * times["scalars"] - times["dots"]
            rows.append({"tensors": count, "targeted": targeted, **times})
            print(count, "targeted" if targeted else "plain", times)
    result = {"unit": "us of thread CPU time a call", "load": os.getloadavg()[1], "rows": rows}
    harness.record(args.json, result)


if __name__ == "__main__":
    main()
