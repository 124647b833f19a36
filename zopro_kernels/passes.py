"""One pass over the weights as backends receive it: validated, flat, one dtype and device."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass
class Pass:
    """theta[t] <- decay[t] theta[t] + sum_k coeffs[t, k] n(seeds[k], streams[k])
    + prev_coeffs[t] prev[t] + v_coeffs[t] v[t], left to right in fp32, one rounding at the store.

    `tensors` are flat, contiguous and written in place; `prev` and `v` are flat, contiguous fp32
    of the same sizes; the coefficients are fp32 on the CPU, [T] or [T, K].
    """

    tensors: list[Tensor]
    params: list[int]  # uint32, one a tensor
    offsets: list[int]  # global index of each tensor's first element, below 2^63
    distribution: str
    seeds: list[int]  # uint64
    streams: list[int]  # uint32
    coeffs: Tensor
    decay: Tensor
    prev: list[Tensor] | None = None
    prev_coeffs: Tensor | None = None
    v: list[Tensor] | None = None
    v_coeffs: Tensor | None = None
    stochastic: bool = False
    rounding_seed: int = 0


@dataclass
class Dots:
    """v.n and n.n of each flat, contiguous fp32 tensor of `vectors` under one seed and stream."""

    vectors: list[Tensor]
    params: list[int]
    offsets: list[int]
    distribution: str
    seed: int
    stream: int
