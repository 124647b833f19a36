"""The public operations: arguments are validated here, once, and handed to one backend."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .arguments import (
    DTYPES,
    check_distribution,
    check_tensors,
    coefficient_table,
    integers,
    per_tensor,
)
from .dispatch import choose
from .passes import Dots, Pass
from .runs import contiguous_runs

LAST = 2**63 - 4096  # a tile more must still be counted in 64 bits with a sign


def noise(
    numel: int,
    seed: int,
    *,
    param: int = 0,
    stream: int = 0,
    offset: int = 0,
    distribution: str = "rademacher",
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    backend: str | None = None,
) -> Tensor:
    """Elements offset .. offset + numel - 1 of n(seed, param, stream), as a new tensor [numel].

    `seed` is in [0, 2^64), `param` and `stream` in [0, 2^32), offset + numel at most 2^63 - 4096.
    `distribution` is "rademacher" (+1 or -1) or "gaussian" (N(0, 1)); `dtype` fp32, bf16 or fp16,
    rounded to nearest. The bits are the same on every backend and device (law: noise.h).

    Raises ValueError or TypeError for an argument out of range, RuntimeError for an asked-for
    backend that is not available.
    """
    (numel,) = integers("numel", [numel], 1, 2**63)
    if dtype not in DTYPES:
        raise TypeError(f"dtype={dtype} is not served: use float32, bfloat16 or float16")
    choose(torch.device(device), backend)
    out = torch.zeros(numel, dtype=dtype, device=device)
    add_noise_(
        [out], [seed], [1.0], distribution=distribution, params=[param], streams=[stream],
        offsets=[offset], backend=backend,
    )  # fmt: skip
    return out


def add_noise_(
    tensors: Sequence[Tensor],
    seeds: Sequence[int],
    coeffs: Sequence[float] | Sequence[Sequence[float]] | Tensor,
    *,
    decay: float | Sequence[float] = 1.0,
    distribution: str = "rademacher",
    params: Sequence[int] | None = None,
    streams: Sequence[int] | None = None,
    offsets: Sequence[int] | None = None,
    rounding: str = "nearest",
    rounding_seed: int | None = None,
    prev: Sequence[Tensor] | None = None,
    prev_coeffs: float | Sequence[float] = 0.0,
    v: Sequence[Tensor] | None = None,
    v_coeffs: float | Sequence[float] = 0.0,
    backend: str | None = None,
) -> None:
    """In place: theta <- decay theta + sum_k coeffs[k] n(seeds[k], streams[k])
    + prev_coeffs prev + v_coeffs v

    for every theta of `tensors` (any shape and strides; fp32, bf16 or fp16; written in place), one
    pass over the memory and one launch for each dtype and device. Terms are added from left to
    right in fp32, products and sums rounded separately; the store rounds once.

    coeffs: [K], or [T, K] for coefficients of each tensor; decay, prev_coeffs, v_coeffs: one
    number, or [T]. params: the index of each tensor in the law (default: its place in the list);
    offsets: the global index of its first element (default 0), for shards; streams: [K] (default
    0). Element i of a tensor is its i-th in row-major order of its shape, whatever its strides.
    prev, v: fp32 tensors of the shapes of `tensors`, read only.
    rounding: "nearest", or "stochastic" (up with probability of the dropped part; random bits from
    the law under `rounding_seed`, default seeds[0]; fp32 is stored as it is).

    Raises ValueError or TypeError, before anything is written, for arguments out of range, of the
    wrong count, shape, dtype or device, or not finite.
    """
    tensors = check_tensors("tensors", tensors)
    check_distribution(distribution)
    if rounding not in ("nearest", "stochastic"):
        raise ValueError(f"rounding={rounding!r} is not known: use 'nearest' or 'stochastic'")
    count = len(tensors)
    seeds = integers("seeds", seeds, None, 2**64)
    p = Pass(
        tensors=tensors,
        params=integers("params", range(count) if params is None else params, count, 2**32),
        offsets=integers("offsets", [0] * count if offsets is None else offsets, count, 2**63),
        distribution=distribution,
        seeds=seeds,
        streams=integers(
            "streams", [0] * len(seeds) if streams is None else streams, len(seeds), 2**32
        ),
        coeffs=coefficient_table(coeffs, count, len(seeds)),
        decay=per_tensor("decay", decay, count),
        prev=_like("prev", prev, tensors),
        prev_coeffs=per_tensor("prev_coeffs", prev_coeffs, count),
        v=_like("v", v, tensors),
        v_coeffs=per_tensor("v_coeffs", v_coeffs, count),
        stochastic=rounding == "stochastic",
        rounding_seed=_rounding_seed(rounding, rounding_seed, seeds),
    )
    _check_extent(p.tensors, p.offsets)
    serving = {t.device: choose(t.device, backend) for t in tensors}  # all, or none is written
    with torch.no_grad():
        for part in contiguous_runs(p):
            serving[part.tensors[0].device].add_noise_(part)
    # The kernels write through addresses: autograd has to be told, as by any in-place operation.
    torch.autograd.graph.increment_version(tensors)


def noise_dots(
    vectors: Sequence[Tensor],
    seed: int,
    *,
    stream: int = 0,
    params: Sequence[int] | None = None,
    offsets: Sequence[int] | None = None,
    distribution: str = "rademacher",
    backend: str | None = None,
) -> Tensor:
    """v.n and n.n of each fp32 tensor v of `vectors` under one seed: fp64 [T, 2] on the CPU.

    The products, rounded to fp32, are summed as integers (units of 2^-40 and 2^-24), so the result
    does not depend on backend, launch or order, and the results of shards add up exactly as long
    as |v.n| < 2^13. Scale v to norm 1: |v.n| beyond 2^23 overflows.

    The projection of the targeted direction (ZOPrO, arXiv 2503.03460) follows from these two:
    p = n - (v.n) v and ||p||^2 = ||n||^2 - (v.n)^2 for ||v|| = 1.
    Raises ValueError or TypeError as `add_noise_` does.
    """
    vectors = check_tensors("vectors", vectors, (torch.float32,))
    check_distribution(distribution)
    count = len(vectors)
    d = Dots(
        vectors=[v.detach().contiguous().view(-1) for v in vectors],
        params=integers("params", range(count) if params is None else params, count, 2**32),
        offsets=integers("offsets", [0] * count if offsets is None else offsets, count, 2**63),
        distribution=distribution,
        seed=integers("seed", [seed], 1, 2**64)[0],
        stream=integers("stream", [stream], 1, 2**32)[0],
    )
    _check_extent(d.vectors, d.offsets)
    out = torch.zeros(count, 2, dtype=torch.int64)
    by_device: dict[torch.device, list[int]] = {}
    for t, vector in enumerate(d.vectors):
        if vector.numel():
            by_device.setdefault(vector.device, []).append(t)
    for device, chosen in by_device.items():
        part = Dots(
            [d.vectors[t] for t in chosen], [d.params[t] for t in chosen],
            [d.offsets[t] for t in chosen], distribution, d.seed, d.stream,
        )  # fmt: skip
        out[chosen] = choose(device, backend).noise_dots(part)
    return out.double() * torch.tensor([2.0**-40, 2.0**-24], dtype=torch.float64)


def _like(name: str, given: Sequence[Tensor] | None, tensors: list[Tensor]) -> list[Tensor] | None:
    if given is None:
        return None
    given = check_tensors(name, given, (torch.float32,))
    if len(given) != len(tensors):
        raise ValueError(f"{name} has {len(given)} tensors for {len(tensors)}: give one a tensor")
    for i, (g, t) in enumerate(zip(given, tensors)):
        if g.shape != t.shape or g.device != t.device:
            raise ValueError(
                f"{name}[{i}] is {tuple(g.shape)} on {g.device} where its tensor is "
                f"{tuple(t.shape)} on {t.device}: give the same shape and device"
            )
    return given


def _rounding_seed(rounding: str, asked: int | None, seeds: list[int]) -> int:
    if asked is not None:
        return integers("rounding_seed", [asked], 1, 2**64)[0]
    if rounding == "stochastic" and not seeds:
        raise ValueError("rounding='stochastic' without seeds needs rounding_seed=")
    return seeds[0] if seeds else 0


def _check_extent(tensors: list[Tensor], offsets: list[int]) -> None:
    for i, (tensor, offset) in enumerate(zip(tensors, offsets)):
        if offset + tensor.numel() > LAST:
            raise ValueError(
                f"offsets[{i}]={offset} reaches past element {LAST}: use a smaller one"
            )
