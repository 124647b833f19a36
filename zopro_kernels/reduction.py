"""The reduction that targeted directions need: v.n and n.n of each tensor, exact integer sums."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .arguments import check_distribution, integers, numbers
from .passes import joined
from .stored import DTYPES, Stored, check_stored
from .tensor_set import TensorSet
from .transfer import moved

LIMIT = 2.0**23  # of |v.n|: 64 bits with a sign hold it in units of 2^-40


def noise_dots(
    vectors: Sequence[Stored] | TensorSet,
    seed: int | Tensor,
    *,
    stream: int | Tensor = 0,
    params: Sequence[int] | None = None,
    offsets: Sequence[int] | None = None,
    distribution: str = "rademacher",
    norms: Tensor | None = None,
    backend: str | None = None,
) -> Tensor:
    """v.n and n.n of each v of `vectors` (fp32, bf16 or Int8Blocks) under one seed: fp64 [T, 2].

    The result lies on the vectors' device, and the host waits for nothing; where they are on
    several, on the CPU. The products, rounded to fp32, are summed as integers (units of 2^-40 and
    2^-24), so the result does not depend on backend, launch or order, and the results of shards add
    up exactly as long as |v.n| < 2^13. seed and stream may be int64 tensors of one element (a
    uint64 by its bits), used from the device where they lie there.
    Integers end: where ||v|| ||n|| reaches 2^23, or v is not finite, v.n is NaN. With ||v|| = 1
    that is past 2^39 elements. `norms`, fp64 [T] on the vectors' device: the ||v||, where they are
    known; else each v is read once more for them.

    The projection of the targeted direction (ZOPrO, arXiv 2503.03460) follows from these two:
    p = n - (v.n) v and ||p||^2 = ||n||^2 - (v.n)^2 for ||v|| = 1.
    Raises ValueError or TypeError as `add_noise_` does.
    """
    check_distribution(distribution)
    if not isinstance(vectors, TensorSet):
        vectors = TensorSet(check_stored("vectors", vectors), params=params, offsets=offsets)
    elif params is not None or offsets is not None:
        raise ValueError("params and offsets belong to the TensorSet: give them to it")
    vectors.follow()
    if len(vectors.dtypes) > 1 or not vectors.dtypes <= {*DTYPES, torch.int8}:
        raise TypeError(
            f"vectors has dtypes {vectors.dtypes}: use a TensorSet of float32, bfloat16 or "
            "Int8Blocks alone"
        )
    count, home = len(vectors), vectors.device
    if norms is not None and norms.shape != (count,):
        raise ValueError(f"norms has shape {tuple(norms.shape)}: give [{count}]")
    seed = _scalar("seed", seed, 2**64)
    zero = torch.zeros_like(seed) if isinstance(seed, Tensor) else [0]
    scalars = joined([zero, seed, _scalar("stream", stream, 2**32)], home)
    places = vectors.places
    if norms is None:
        norms = _lengths(vectors.tensors, places, home)
    sums = vectors.sums(scalars, distribution, backend)
    out = _in_order(sums, places, home, torch.empty(0, 2, dtype=torch.int64)).double()
    vn, nn = out[:, 0] * 2.0**-40, out[:, 1] * 2.0**-24
    fits = moved(norms, home) * nn.sqrt() < LIMIT
    return torch.stack([torch.where(fits, vn, torch.nan), nn], dim=1)


def _scalar(name: str, given: int | Tensor, bound: int) -> list[int] | Tensor:
    if isinstance(given, Tensor):
        return numbers(name, given.view(-1), 1, bound)
    return integers(name, [given], 1, bound)


def _lengths(
    vectors: list[Stored], places: dict[torch.device, list[int]], home: torch.device
) -> Tensor:
    norms = [
        torch.stack([n.double() for n in _norms([vectors[t] for t in rows])])
        for rows in places.values()
    ]
    return _in_order(norms, places, home, torch.empty(0, dtype=torch.float64))


def _norms(vectors: list[Stored]) -> list[Tensor]:
    if vectors[0].dtype == torch.float32:
        return torch._foreach_norm(vectors)
    return [torch.linalg.vector_norm(v.float()) for v in vectors]


def _in_order(
    parts: list[Tensor], places: dict[torch.device, list[int]], home: torch.device, none: Tensor
) -> Tensor:
    """The rows of each device's part in the order of the vectors, on `home`."""
    if len(parts) == 1:
        return parts[0]
    order = torch.tensor([t for rows in places.values() for t in rows], dtype=torch.int64)
    return torch.cat([none, *(part.to(home) for part in parts)])[order.argsort()]
