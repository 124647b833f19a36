"""The pass over the weights: arguments are validated here, once, and handed to one backend."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .arguments import DTYPES, check_distribution, coefficients, integers, numbers
from .dispatch import choose
from .passes import joined
from .stored import Stored
from .tensor_set import TensorSet


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
    tensors: Sequence[Tensor] | TensorSet,
    seeds: Sequence[int] | Tensor,
    coeffs: Sequence[float] | Sequence[Sequence[float]] | Tensor,
    *,
    decay: float | Sequence[float] | Tensor = 1.0,
    distribution: str = "rademacher",
    params: Sequence[int] | None = None,
    streams: Sequence[int] | Tensor | None = None,
    offsets: Sequence[int] | None = None,
    rounding: str = "nearest",
    rounding_seed: int | None = None,
    prev: Sequence[Stored] | None = None,
    prev_coeffs: float | Sequence[float] | Tensor = 0.0,
    v: Sequence[Stored] | None = None,
    v_coeffs: float | Sequence[float] | Tensor = 0.0,
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
    prev, v: of the shapes of `tensors`, read only; both as fp32 tensors, as bf16 tensors, or as
    Int8Blocks (`zk.quantise`), whose elements count as fp32. A TensorSet, for many passes over
    the same tensors, has its own params, offsets, prev and v.
    Device memory: seeds and streams may be int64 tensors [K] (a uint64 by its bits, of a stream the
    low 32), the coefficients floating-point tensors. On the device of `tensors` they are used from
    there and the host never waits for them, so their values cannot be checked: a pass with a
    coefficient that is not finite in fp32 writes nothing, for any tensor. A tensor that its
    coefficients leave as it is (decay 1, all others 0) is not written: its bits stay.
    rounding: "nearest", or "stochastic" (up with probability of the dropped part; random bits from
    the law under `rounding_seed`, default seeds[0]; fp32 is stored as it is).

    Raises ValueError or TypeError, before anything is written, for arguments out of range, of the
    wrong count, shape, dtype or device, or (numbers of the host) not finite.
    """
    stochastic = _check(distribution, rounding)
    tensors = _prepared(tensors, params, offsets, prev, v)
    record = Record(seeds, coeffs, decay, streams, rounding_seed, prev_coeffs, v_coeffs)
    integers, floats = _scalars(tensors, rounding, record)
    tensors.add_noise_(
        integers, floats, distribution=distribution, stochastic=stochastic, backend=backend
    )
    # The kernels write through addresses: autograd has to be told.
    tensors.mark_written()


@dataclass(frozen=True)
class Record:
    """One pass of `add_noise_sequence_`: the arguments of `add_noise_` that have these names."""

    seeds: Sequence[int] | Tensor
    coeffs: Sequence[float] | Sequence[Sequence[float]] | Tensor
    decay: float | Sequence[float] | Tensor = 1.0
    streams: Sequence[int] | Tensor | None = None
    rounding_seed: int | None = None
    prev_coeffs: float | Sequence[float] | Tensor = 0.0
    v_coeffs: float | Sequence[float] | Tensor = 0.0


def add_noise_sequence_(
    tensors: Sequence[Tensor] | TensorSet,
    records: Iterable[Record],
    *,
    distribution: str = "rademacher",
    params: Sequence[int] | None = None,
    offsets: Sequence[int] | None = None,
    rounding: str = "nearest",
    prev: Sequence[Stored] | None = None,
    v: Sequence[Stored] | None = None,
    backend: str | None = None,
) -> None:
    """In place, for each of `records` in turn: `add_noise_` with its seeds, coefficients and
    rounding seed; in one pass over the memory, whatever their number.

    The bits are those of that loop: every record's result is rounded to the dtype of `tensors`
    before the next one's terms are added. A weight is read and written once, prev and v stay in
    a cache, so records cost their arithmetic alone. All other arguments are as in `add_noise_` and
    the same for all records; records may differ in the number of seeds.

    Raises ValueError or TypeError as `add_noise_`, before anything is written.
    """
    stochastic = _check(distribution, rounding)
    tensors = _prepared(tensors, params, offsets, prev, v)
    records = list(records)
    for i, record in enumerate(records):
        if not isinstance(record, Record):
            raise TypeError(f"records[{i}] is a {type(record).__name__}: give a zk.Record")
    tensors.add_noise_sequence_(
        [_scalars(tensors, rounding, record) for record in records],
        distribution=distribution, stochastic=stochastic, backend=backend,
    )  # fmt: skip
    tensors.mark_written()


def _check(distribution: str, rounding: str) -> bool:
    """Whether to round stochastically."""
    check_distribution(distribution)
    if rounding not in ("nearest", "stochastic"):
        raise ValueError(f"rounding={rounding!r} is not known: use 'nearest' or 'stochastic'")
    return rounding == "stochastic"


def _prepared(
    tensors: Sequence[Tensor] | TensorSet,
    params: Sequence[int] | None,
    offsets: Sequence[int] | None,
    prev: Sequence[Stored] | None,
    v: Sequence[Stored] | None,
) -> TensorSet:
    if not isinstance(tensors, TensorSet):
        return TensorSet(tensors, params=params, offsets=offsets, prev=prev, v=v)
    if any(given is not None for given in (params, offsets, prev, v)):
        raise ValueError("params, offsets, prev and v belong to the TensorSet: give them to it")
    return tensors


def _scalars(tensors: TensorSet, rounding: str, r: Record) -> tuple[Tensor, Tensor]:
    """The integers and floats of a pass (TensorSet.add_noise_)."""
    seeds = numbers("seeds", r.seeds, None, 2**64)
    count = len(seeds)
    streams = numbers("streams", [0] * count if r.streams is None else r.streams, count, 2**32)
    floats = coefficients(
        tensors.device, len(tensors), count, r.coeffs, r.decay, r.prev_coeffs, r.v_coeffs
    )
    seed = _rounding_seed(rounding, r.rounding_seed, seeds)
    return joined([seed, seeds, streams], tensors.device), floats


def _rounding_seed(
    rounding: str, asked: int | None, seeds: list[int] | Tensor
) -> list[int] | Tensor:
    if asked is not None:
        return integers("rounding_seed", [asked], 1, 2**64)
    if rounding == "stochastic" and not len(seeds):
        raise ValueError("rounding='stochastic' without seeds needs rounding_seed=")
    return seeds[:1] if len(seeds) else [0]
