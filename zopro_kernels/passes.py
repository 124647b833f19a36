"""One pass over the weights as backends receive it: validated, flat, one dtype and device."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

from torch import Tensor

from .transfer import moved, picked


@dataclass
class Pass:
    """theta[t] <- decay[t] theta[t] + sum_k coeffs[t, k] n(seeds[k], streams[k])
    + prev_coeffs[t] prev[t] + v_coeffs[t] v[t], left to right in fp32, one rounding at the store.

    `tensors` are flat, contiguous and written in place; `prev` and `v` are flat, contiguous fp32
    of the same sizes; the coefficients are fp32 [T] or [T, K] on any one device. Where `live` (bool
    [T], beside the coefficients) is False nothing is written; None means everywhere. Seeds, streams
    and rounding seed are ints, or int64 tensors on any device (a uint64 by its bits).
    """

    tensors: list[Tensor]
    params: list[int]  # uint32, one a tensor
    offsets: list[int]  # global index of each tensor's first element, below 2^63
    distribution: str
    seeds: list[int] | Tensor  # uint64
    streams: list[int] | Tensor  # uint32
    coeffs: Tensor
    decay: Tensor
    prev: list[Tensor] | None = None
    prev_coeffs: Tensor | None = None
    v: list[Tensor] | None = None
    v_coeffs: Tensor | None = None
    stochastic: bool = False
    rounding_seed: int | Tensor = 0
    live: Tensor | None = None


COEFFICIENTS = ("coeffs", "decay", "prev_coeffs", "v_coeffs", "live")


def on_device(p: Pass) -> Pass:
    """`p` with whatever of it is a tensor on the device of the weights."""
    device = p.tensors[0].device
    given = {f.name: getattr(p, f.name) for f in fields(p)}
    return replace(p, **{k: moved(x, device) for k, x in given.items() if isinstance(x, Tensor)})


def part_of(p: Pass, tensors: list[Tensor], rows: list[int], starts: list[int], **others) -> Pass:
    """The pass over `tensors`: pieces of `p`'s, tensor rows[i] from element starts[i] on."""
    given = {name: getattr(p, name) for name in COEFFICIENTS}
    return replace(
        p,
        tensors=tensors,
        params=[p.params[t] for t in rows],
        offsets=[p.offsets[t] + start for t, start in zip(rows, starts)],
        **{name: None if x is None else picked(x, rows) for name, x in given.items()},
        **others,
    )


@dataclass
class Dots:
    """v.n and n.n of each flat, contiguous fp32 tensor of `vectors` under one seed and stream."""

    vectors: list[Tensor]
    params: list[int]
    offsets: list[int]
    distribution: str
    seed: int
    stream: int
