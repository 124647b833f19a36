"""What bounds each GPU kernel on an A100, H100 and H200, from its machine code: bytes or issue.

    python tools/static_report.py --json benchmarks/results/static_sm90.json
    python benchmarks/limits.py            # writes benchmarks/results/limits.json

For each form of the pass: the bytes an element moves, the instructions it takes by pipe (tools/
sass.py, sm_90 code, for the A100 too), and the time these give at the devices' published figures.
A prediction is a limit: the share of a copy's speed where the slowest of memory, issue and too few
bytes in flight is all that costs. Figures of bench_pass_cuda.json, where it exists, stand beside as
measured.
"""

from __future__ import annotations

import argparse
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness import RESULTS, record


@dataclass(frozen=True)
class Device:
    """Published figures. An SM issues 128 lane-instructions a clock (four warps of 32)."""

    name: str  # as torch names it, in part
    source: str
    bytes_per_s: float  # of its memory
    processors: int
    fp32_flops: float  # two an FMA: gives the clock
    fma_lanes: int  # an SM and clock; ALU: 64, load-store: 32 (CUDA C++ Programming Guide,
    bf16_flops: float  # table of arithmetic throughput); bf16 dense, without sparsity

    @property
    def clock(self) -> float:
        return self.fp32_flops / (2 * self.fma_lanes * self.processors)


DEVICES = (
    Device("A100", "NVIDIA A100 80GB SXM data sheet", 2.039e12, 108, 19.5e12, 64, 312e12),
    Device("H100", "NVIDIA H100 SXM data sheet", 3.35e12, 132, 67e12, 128, 989e12),
    Device("H200", "NVIDIA H200 SXM data sheet", 4.8e12, 132, 67e12, 128, 989e12),
)
# Assumed, not published: what a copy reaches of the memory's speed, and the bytes in flight an SM
# of an H100 needs for that (other devices: as their bytes a second and SM).
COPY_SHARE, H100_IN_FLIGHT = 0.9, 40 * 1024
SIZES = {"fp32": 4, "bf16": 2}
TILE, LANES = 4096, 32


def read_bytes(kernel: str, dtype: str) -> float:
    """Bytes an element that a pass reads; all but the reductions write the weights back."""
    if "targeted" not in kernel:
        return SIZES[dtype]
    # prev and v; in 8 bits with an fp32 scale for each 256 elements.
    each = 2 if "kept bf16" in kernel else 1 + 4 / 256 if "kept int8" in kernel else 4
    return SIZES[dtype] + 2 * each


def written_bytes(kernel: str, dtype: str) -> int:
    return 0 if kernel.startswith("dot") else SIZES[dtype]


def ahead(backend: str, kernel: str) -> int:
    """Elements a thread loads before it works on them (Form::BATCH in csrc/cuda/tile.cuh)."""
    if "many signs" in kernel:
        return 128
    if backend.startswith("triton"):
        return 16 if "gaussian" in kernel else 32
    return 16 if "targeted" in kernel or "many" in kernel else 32


def resident_warps(row: dict[str, Any]) -> int:
    """Warps an SM holds: each of its four parts has 16,384 registers, given out by 256."""
    each = 256 * math.ceil(row["registers"] / 8)
    block = 4 if row["backend"].startswith("triton") else 2 if "many signs" in row["kernel"] else 8
    return min(4 * (16384 // each), 64) // block * block


def issued(row: dict[str, Any], seeds: int) -> dict[str, float]:
    """Instructions an element by pipe, of a form with so many seeds."""
    further = row["further_seed"] or {}
    return {pipe: n + (seeds - 1) * further.get(pipe, 0.0) for pipe, n in row["pipes"].items()}


def bound(device: Device, row: dict[str, Any], seeds: int) -> dict[str, Any]:
    """Times in picoseconds an element, and the share of a copy's speed they leave."""
    kernel, dtype = row["kernel"], row["dtype"]
    reads = read_bytes(kernel, dtype)
    moved = reads + written_bytes(kernel, dtype)
    pipes = issued(row, seeds)
    a_second = device.processors * device.clock  # SM clocks
    memory = moved / (COPY_SHARE * device.bytes_per_s)
    lanes = {"issue": 128, "fma": device.fma_lanes, "alu": 64, "lsu": 32}
    times = {
        name: (sum(pipes.values()) if name == "issue" else pipes[name]) / (width * a_second)
        for name, width in lanes.items()
    }
    slowest = max(times, key=times.__getitem__)
    flight = resident_warps(row) * LANES * ahead(row["backend"], kernel) * reads
    h100 = DEVICES[1]
    needed = H100_IN_FLIGHT * (device.bytes_per_s / device.processors)
    needed *= reads / moved / (h100.bytes_per_s / h100.processors)
    share = min(1.0, memory / times[slowest], flight / needed)
    tiles = 2**30 / TILE / (resident_warps(row) * device.processors)
    return {
        "device": device.name, "memory_ps": 1e12 * memory, "issue_ps": 1e12 * times[slowest],
        "slowest_pipe": slowest, "bytes_in_flight": flight, "bytes_needed": needed,
        "tail_of_2^30": math.ceil(tiles) / tiles - 1, "predicted_share": share,
        "predicted_ps": 1e12 * memory / share,
    }  # fmt: skip


def pass_name(row: dict[str, Any], seeds: int) -> str:
    """What bench_pass calls this form; its default backend on a GPU is cuda."""
    distribution = "gaussian" if "gaussian" in row["kernel"] else "rademacher"
    named, dtype = row["kernel"], row["dtype"]
    ending = ", triton" if row["backend"].startswith("triton") else ""
    late = " stochastic" if "stochastic" in named else ""
    if named.startswith("dot"):
        return f"noise_dots {distribution}{ending}"
    if seeds > 1:
        return f"{distribution} {dtype}, {seeds} seeds{late}{ending}"
    if named.startswith("targeted"):
        return f"targeted {distribution} {dtype}{late}{ending}"
    return f"{distribution} {dtype}{late or ' nearest'}{ending}"


def measured() -> dict[tuple[str, str], float]:
    """(device, pass) -> share of a copy over the largest tensor, of what has been measured."""
    path = RESULTS / "bench_pass_cuda.json"
    if not path.exists():
        return {}
    result = json.loads(path.read_text())
    device = next((d.name for d in DEVICES if d.name in result["device"]), result["device"])
    single = [p for p in result["passes"] if p["tensors"] == 1 and "share of copy" in p]
    return {
        (device, p["pass"]): p["share of copy"] for p in sorted(single, key=lambda p: p["elements"])
    }


def forms(rows: list[dict[str, Any]], known: dict[tuple[str, str], float]) -> list[dict[str, Any]]:
    """A form and device each, with bytes, instructions and bounds."""
    out = []
    for row in rows:
        # Of many seeds those with targets in other forms take the same loop; a sequence's bytes
        # are those of a pass, whatever the number of its records; linear layers keep no copies.
        same = "many" in row["kernel"] and "kept" in row["kernel"]
        if row["dtype"] not in SIZES or same or row["kernel"].startswith(("sequence", "linear")):
            continue
        for seeds in (2, 8) if "many" in row["kernel"] else (1,):
            pipes = issued(row, seeds)
            moved = sum(f(row["kernel"], row["dtype"]) for f in (read_bytes, written_bytes))
            for device in DEVICES:
                backend = row["backend"].split()[0]
                told = known.get((device.name, pass_name(row, seeds)))
                out.append(
                    {"backend": backend, "kernel": row["kernel"], "dtype": row["dtype"],
                     "seeds": seeds, "bytes": moved, "instructions": sum(pipes.values()),
                     "pipes": pipes, "warps": resident_warps(row), **bound(device, row, seeds),
                     "measured_share": told}
                )  # fmt: skip
    return out


def small_tensors(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """300 adapters of 16 x 64: rounds of the grid, and what an SM gets of them."""
    out = []
    for row in rows:
        if (row["kernel"], row["dtype"], row["backend"]) == ("signs", "fp32", "cuda"):
            for device in DEVICES:
                held = resident_warps(row) * device.processors
                out.append({"device": device.name, "tensors": 300, "elements": 300 * 1024,
                            "rounds": math.ceil(300 / held), "warps_held": held})  # fmt: skip
    return out


# Llama-3.2-1B (its config.json): embeddings shared with the output, 16 layers.
VOCABULARY, WIDTH, INNER, LAYERS, KEYS = 128256, 2048, 8192, 16, 512
WEIGHTS = (
    VOCABULARY * WIDTH
    + WIDTH
    + LAYERS * (2 * WIDTH * WIDTH + 2 * WIDTH * KEYS + 3 * WIDTH * INNER + 2 * WIDTH)
)
TOKENS, CONTEXT = 16 * 512, 512
UTILISATION = 0.5  # assumed: what a forward reaches of the peak
# Copies of the weights moved in a step: MeZO's traced kernels; ours with three passes, or with two
# where the next perturbation rides on the update.
MEZO, THREE, TWO = 37, 6, 4


def peak_over_inference() -> float:
    """The pass allocates its table and scalars alone: 64 and 24 bytes a tensor, two seeds."""
    tensors = 9 * LAYERS + 2
    inference = 2 * WEIGHTS + 2 * TOKENS * VOCABULARY  # and one set of bf16 logits
    return 1 + tensors * (64 + 4 * (4 + 2)) / inference


def steps(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """An SPSA step of 1 B weights in bf16, in place, beside MeZO's traffic and its forwards."""
    share = {
        (f["device"], f["seeds"]): f["predicted_share"] for f in found
        if f["backend"] == "cuda" and f["dtype"] == "bf16"
        and f["kernel"] in ("signs stochastic", "many signs stochastic")
    }  # fmt: skip
    out = []
    for device in DEVICES:
        one = 2 * WEIGHTS / (COPY_SHARE * device.bytes_per_s)  # s a copy of the weights
        three = THREE * one / share[device.name, 1]
        two = TWO / 2 * one / share[device.name, 1] + TWO / 2 * one / share[device.name, 2]
        attention = 4 * LAYERS * CONTEXT * WIDTH * TOKENS
        forward = (2 * WEIGHTS * TOKENS + attention) / (UTILISATION * device.bf16_flops)
        out.append(
            {"device": device.name, "mezo_s": MEZO * one, "three_passes_s": three,
             "two_passes_s": two, "forward_s": forward,
             "times_mezo_three": MEZO * one / three, "times_mezo_two": MEZO * one / two,
             "over_forwards_three": 1 + three / (2 * forward),
             "over_forwards_two": 1 + two / (2 * forward),
             "peak_over_inference": peak_over_inference()}
        )  # fmt: skip
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--static", type=Path, default=RESULTS / "static_sm90.json")
    parser.add_argument("--out", type=Path, default=RESULTS / "limits.json")
    asked = parser.parse_args()
    rows = json.loads(asked.static.read_text())["kernels"]
    found = forms(rows, measured())
    devices = [{**vars(d), "clock": d.clock} for d in DEVICES]
    assumed = {"copy_share": COPY_SHARE, "h100_bytes_in_flight": H100_IN_FLIGHT,
               "forward_utilisation": UTILISATION, "weights": WEIGHTS, "tokens": TOKENS,
               "mezo_copies": MEZO, "copies": [THREE, TWO]}  # fmt: skip
    record(asked.out, {"devices": devices, "assumed": assumed, "forms": found,
                       "small_tensors": small_tensors(rows), "steps": steps(found)})  # fmt: skip


if __name__ == "__main__":
    main()
