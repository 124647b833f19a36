"""The passes over the weights that bench_pass.py measures: ours, a copy, `x.mul_`, and peers."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

import peers
import torch
from torch import Tensor

import zopro_kernels as zk

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
SCALE = 1e-3
# Shapes of the two factors of an adapter of rank 16 on a layer of width 2,048 (Llama-3.2-1B's).
LORA = ((16, 2048), (2048, 16))
Shapes = list[tuple[int, ...]]
Weights = Iterator[list[Tensor]]  # endless: copies of the same tensors, in turn
Pass = tuple[int, Callable[[], None]]  # bytes an element beside the weights' own, and the pass


class Contender(NamedTuple):
    """One pass: the weights' dtype, bytes an element has to move at least, and the pass."""

    dtype: str
    bytes: int
    run: Callable[[], None]


def layouts(numels: list[int], lora: int) -> dict[str, Shapes]:
    """Name -> shapes: one tensor of each of `numels` elements, then `lora` of an adapter."""
    found: dict[str, Shapes] = {f"{n:,}": [(n,)] for n in numels}
    if lora:
        found[f"{lora} LoRA tensors"] = [LORA[i % 2] for i in range(lora)]
    return found


def last_level_cache(device: str) -> int:
    """Bytes of the largest cache of `device`; 32 MiB where it does not say."""
    if torch.device(device).type == "cuda":
        return torch.cuda.get_device_properties(device).L2_cache_size
    units = {"K": 2**10, "M": 2**20}
    sizes = [p.read_text().strip() for p in Path("/sys/devices/system/cpu/cpu0/cache").glob(
        "index*/size")]  # fmt: skip
    return max((int(s[:-1]) * units.get(s[-1], 1) for s in sizes), default=2**25)


def copies(shapes: Shapes, dtype: torch.dtype, device: str) -> list[list[Tensor]]:
    """Random tensors of `shapes`, so often that together they are over four times the cache."""
    size = sum(math.prod(s) for s in shapes) * dtype.itemsize
    count = 1 + 4 * last_level_cache(device) // size
    first = [torch.randn(s, device=device).to(dtype) for s in shapes]
    return [first, *([x.clone() for x in first] for _ in range(count - 1))]


def backends(device: str) -> dict[str, str]:
    """Ending of a pass's name -> backend: the default one, and on a GPU every native one."""
    default = zk.default_backend(device)
    native = ("cuda", "triton") if torch.device(device).type == "cuda" else ()
    others = [b for b in native if b != default and zk.backends()[b] == "available"]
    return {"": default, **{f", {b}": b for b in others}}


def contenders(shapes: Shapes, device: str) -> dict[str, Contender]:
    """Name -> contender, all on weights of `shapes`; each takes the copies of its weights in turn.

    Ours by the default backend have no ending, others end in ", BACKEND". Bytes are those of one
    read and one write of the weights, and of prev and v (fp32) where they are read.
    """
    found: dict[str, Contender] = {}
    prev, v = (itertools.cycle(copies(shapes, torch.float32, device)) for _ in range(2))
    for name, dtype in DTYPES.items():
        weights = itertools.cycle(copies(shapes, dtype, device))
        passes = plain(name, weights, shapes, device)
        for ending, backend in backends(device).items():
            made = ours(name, weights, prev, v, backend)
            passes |= {label + ending: made_pass for label, made_pass in made.items()}
        if name != "fp16":
            passes |= theirs(name, weights)
        for label, (extra, run) in passes.items():
            found[label] = Contender(name, 2 * dtype.itemsize + extra, run)
    return found


def plain(name: str, weights: Weights, shapes: Shapes, device: str) -> dict[str, Pass]:
    """The device's own: a multiplication in place, and a copy."""
    other = [torch.empty(s, dtype=DTYPES[name], device=device) for s in shapes]
    if len(shapes) == 1:  # what users type
        mul = lambda: next(weights)[0].mul_(1.0001)  # noqa: E731
        copy = lambda: other[0].copy_(next(weights)[0])  # noqa: E731
    else:
        mul = lambda: torch._foreach_mul_(next(weights), 1.0001)  # noqa: E731
        copy = lambda: torch._foreach_copy_(other, next(weights))  # noqa: E731
    return {f"mul_ {name}": (0, mul), f"copy_ {name}": (0, copy)}


def theirs(name: str, weights: Weights) -> dict[str, Pass]:
    """The peers."""
    works = {
        "MeZO": peers.mezo_pass,
        "foreach": peers.foreach_pass,
        "compiled gaussian": peers.compiled_pass("gaussian"),
        "compiled rademacher": peers.compiled_pass("rademacher"),
    }
    return {
        f"{label} {name}": (0, lambda work=work: work(next(weights), SCALE))
        for label, work in works.items()
    }


def ours(name: str, weights: Weights, prev: Weights, v: Weights, backend: str) -> dict[str, Pass]:
    """The passes of zopro_kernels; prev and v are fp32, of the weights' shapes."""

    def add(distribution: str, seeds: int = 1, **options) -> None:
        zk.add_noise_(next(weights), list(range(5, 5 + seeds)), [SCALE] * seeds,
                      distribution=distribution, backend=backend, **options)  # fmt: skip

    def targeted(distribution: str) -> None:
        add(distribution, prev=next(prev), prev_coeffs=SCALE, v=next(v), v_coeffs=SCALE)

    def dots(distribution: str) -> None:
        zk.noise_dots(next(v), 5, distribution=distribution, backend=backend)

    found: dict[str, Pass] = {}
    for d in ("rademacher", "gaussian"):
        for r in ("nearest",) if name == "fp32" else ("nearest", "stochastic"):
            found[f"{d} {name} {r}"] = (0, partial(add, d, rounding=r))
        if name != "fp16":
            found[f"targeted {d} {name}"] = (8, partial(targeted, d))
        if name == "fp32":  # reads v alone, whatever the weights' dtype
            found[f"noise_dots {d}"] = (-4, partial(dots, d))
    if name != "fp16":
        for k in (2, 8):
            found[f"rademacher {name}, {k} seeds"] = (0, partial(add, "rademacher", k))
    return found
