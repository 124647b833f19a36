"""Passes over the weights as backends receive them: validated, flat, one dtype and device."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor

from .transfer import moved, picked

if TYPE_CHECKING:
    from .stored import Stored

DECAY, PREV, V, LIVE, COEFFS = 0, 1, 2, 3, 4  # columns of a pass's floats


@dataclass
class Pass:
    """theta[t] <- decay[t] theta[t] + sum_k coeffs[t, k] n(seeds[k], streams[k])
    + prev_coeffs[t] prev[t] + v_coeffs[t] v[t], left to right in fp32, one rounding at the store.

    `tensors` are flat, contiguous and written in place; `prev` and `v` are flat, contiguous, of the
    same sizes, and both in one form: fp32, bf16 or Int8Blocks, whose elements count as fp32.
    `integers` and `floats` lie beside the tensors: int64 [1 + 2 K] (rounding seed, seeds, streams;
    a uint64 by its bits) and fp32 [T, 4 + K] (decay, prev_coeff, v_coeff, live, coeffs); rows that
    are all the same may be one, expanded. Where `live` is 0 nothing is written. `tables` keeps
    descriptors where the same tensors come again (table.py).
    """

    tensors: list[Tensor]
    params: list[int]  # uint32, one a tensor
    offsets: list[int]  # global index of each tensor's first element, below 2^63
    distribution: str
    integers: Tensor
    floats: Tensor
    prev: list[Stored] | None = None
    v: list[Stored] | None = None
    stochastic: bool = False
    tables: dict[Any, Any] = field(default_factory=dict)

    @property
    def form(self) -> torch.dtype:
        """Of prev and v; torch.int8 for Int8Blocks."""
        given = self.prev or self.v
        return given[0].dtype if given else torch.float32

    @property
    def seeds(self) -> Tensor:
        """int64 [K]."""
        return self.integers[1 : 1 + self.count]

    @property
    def streams(self) -> Tensor:
        """int64 [K]; the low 32 bits count."""
        return self.integers[1 + self.count :]

    @property
    def count(self) -> int:
        """K, the number of seeds."""
        return self.floats.shape[1] - COEFFS


@dataclass
class PassSequence:
    """Passes over the same tensors, one after the other: `records` are the (integers, floats) of
    each, with their own K; all else is as in a Pass and common to them. The bits are those of the
    passes made one by one, each with its own rounding.
    """

    tensors: list[Tensor]
    params: list[int]
    offsets: list[int]
    distribution: str
    records: list[tuple[Tensor, Tensor]]
    prev: list[Stored] | None = None
    v: list[Stored] | None = None
    stochastic: bool = False
    tables: dict[Any, Any] = field(default_factory=dict)

    @property
    def form(self) -> torch.dtype:
        """Of prev and v; torch.int8 for Int8Blocks."""
        given = self.prev or self.v
        return given[0].dtype if given else torch.float32

    def single(self, integers: Tensor, floats: Tensor) -> Pass:
        """The pass of one record."""
        return Pass(
            self.tensors, self.params, self.offsets, self.distribution, integers, floats, self.prev,
            self.v, self.stochastic, self.tables,
        )  # fmt: skip

    def packed(self) -> tuple[Tensor, Tensor, Tensor]:
        """What kernels read, beside the tensors: int64 [R, 4], the places of each record's first
        integer and float, its K and 0; all integers; all floats, T rows of 4 + K a record."""
        places, first, second = [], 0, 0
        for integers, floats in self.records:
            places.append([first, second, floats.shape[1] - COEFFS, 0])
            first, second = first + integers.numel(), second + floats.numel()
        device = self.tensors[0].device
        return (
            moved(torch.tensor(places, dtype=torch.int64).view(-1, 4), device),
            torch.cat([integers for integers, _ in self.records]),
            torch.cat([floats.reshape(-1) for _, floats in self.records]),
        )


AnyPass = TypeVar("AnyPass", Pass, PassSequence)


def part_of(
    p: AnyPass, tensors: list[Tensor], rows: list[int], starts: list[int], **others
) -> AnyPass:
    """The pass over `tensors`: pieces of `p`'s, tensor rows[i] from element starts[i] on."""
    device = tensors[0].device

    def scalars(integers: Tensor, floats: Tensor) -> tuple[Tensor, Tensor]:
        return moved(integers, device), moved(picked(floats, rows), device)

    if isinstance(p, PassSequence):
        others["records"] = [scalars(*record) for record in p.records]
    else:
        others["integers"], others["floats"] = scalars(p.integers, p.floats)
    return replace(
        p,
        tensors=tensors,
        params=[p.params[t] for t in rows],
        offsets=[p.offsets[t] + start for t, start in zip(rows, starts)],
        tables={},
        **others,
    )


@dataclass
class Dots:
    """v.n and n.n of each tensor of `vectors` under one seed and stream; all are flat, contiguous
    and in one form: fp32, bf16 or Int8Blocks.

    `integers` int64 [3] beside the vectors: 0, seed, stream, as in a pass.
    """

    vectors: list[Stored]
    params: list[int]
    offsets: list[int]
    distribution: str
    integers: Tensor
    tables: dict[Any, Any] = field(default_factory=dict)

    @property
    def form(self) -> torch.dtype:
        """Of the vectors; torch.int8 for Int8Blocks."""
        return self.vectors[0].dtype


def integers(values: list[int], device: torch.device) -> Tensor:
    """uint64 numbers as int64 on `device`, by their bits, in one copy."""
    signed = [value - 2**64 if value >= 2**63 else value for value in values]
    return moved(torch.tensor(signed, dtype=torch.int64), device)


def joined(parts: list[list[int] | Tensor], device: torch.device) -> Tensor:
    """The parts one after another, int64 on `device`; neighbours on the host go in one copy."""
    out: list[Tensor] = []
    waiting: list[int] = []
    for part in [*parts, None]:
        if isinstance(part, list):
            waiting += part
            continue
        if waiting:
            out.append(integers(waiting, device))
            waiting = []
        if part is not None:
            out.append(moved(part.view(-1), device))
    return out[0] if len(out) == 1 else torch.cat(out)
