"""Which direction and sign each sequence of a batch has; the numbers that copies are made of."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

import zopro_kernels as zk

from ..devices import moved
from ..directions import Plan
from ..seeds import as_int64
from .family import Family

COMMON = -1  # the stream of a sequence at theta that serves all directions as their baseline
NAMED = ("all", "per_response")
Streams = list[int]
Signs = list[int]


def named_map(mapping: str, size: int, two_sided: bool, sequences: int) -> tuple[Streams, Signs]:
    """The whole batch of B responses once for each block: "all" has blocks (direction 0, +),
    (0, -), (1, +), ... or, one-sided, theta, 0, 1, ...; "per_response" (+), (-) or theta, (+),
    where response b has direction b. Raises ValueError where `sequences` does not divide."""
    if mapping == "all":
        keys = [(k, s) for k in range(size) for s in ((1, -1) if two_sided else (1,))]
        keys = keys if two_sided else [(COMMON, 0), *keys]
        each, rest = divmod(sequences, len(keys))
        if rest or not each:
            raise ValueError(
                f"the batch has {sequences} sequences where mapping='all' with size={size} needs a "
                f"multiple of {len(keys)}: each response once for each evaluation (`copies`)"
            )
        return [k for k, _ in keys for _ in range(each)], [s for _, s in keys for _ in range(each)]
    if sequences != 2 * size:
        raise ValueError(
            f"the batch has {sequences} sequences where mapping='per_response' with size={size} "
            f"needs {2 * size}: each of {size} responses twice (`copies`)"
        )
    return [*range(size)] * 2, [1] * size + [-1 if two_sided else 0] * size


def given_map(streams: Any, signs: Any, size: int) -> tuple[Streams, Signs]:
    """Streams and signs as lists of one length; ValueError or TypeError for what is none."""
    streams = _integers("mapping", streams)
    signs = [signs] * len(streams) if isinstance(signs, int) else _integers("signs", signs)
    if not streams:
        raise ValueError("mapping is empty: give the direction of each sequence of the batch")
    if len(signs) != len(streams):
        raise ValueError(
            f"signs has {len(signs)} entries for {len(streams)} sequences: give one each"
        )
    for j, (k, s) in enumerate(zip(streams, signs)):
        if s not in (-1, 0, 1):
            raise ValueError(f"signs[{j}] is {s}: give 1, -1, or 0 for theta itself")
        if not (0 <= k < size or (k == COMMON and s == 0)):
            raise ValueError(
                f"mapping[{j}] is {k} with sign {s}: give a direction from 0 to {size - 1} (or, "
                "with sign 0, -1 for a baseline that serves all)"
            )
    return streams, signs


def _integers(name: str, values: Any) -> list[int]:
    if isinstance(values, Tensor):
        if values.dim() != 1 or values.is_floating_point() or values.dtype == torch.bool:
            raise TypeError(
                f"{name} is a {values.dtype} tensor of shape {tuple(values.shape)}: give integers, "
                "one a sequence"
            )
        return values.tolist()
    if not isinstance(values, Iterable) or isinstance(values, str):
        raise TypeError(f"{name}={values!r} is no list: give the direction of each sequence")
    values = list(values)
    if any(isinstance(x, bool) or not isinstance(x, int) for x in values):
        raise TypeError(f"{name} holds what is no integer: give one for each sequence")
    return values


@dataclass(eq=False)
class Members:
    """A batch's sequences as runs of `each` neighbours that share direction and sign: G of them.

    integers: int64 [G, 4] and floats: fp32 [T, G, 5], as zk.Copies has them, for the plan's T
    tensors, where signs count as +eps and -eps; on the plan's device. weights: what low-rank
    directions are scaled with, fp32 [T, G].
    """

    streams: Streams
    signs: Signs
    each: int
    integers: Tensor
    floats: Tensor
    weights: Tensor

    @property
    def sequences(self) -> int:
        return len(self.streams)

    @classmethod
    def of(cls, plan: Plan, streams: Streams, signs: Signs, family: Family | None) -> Members:
        """Along the plan's directions, or those of `family`, whose tensors are prev's rows then."""
        each = _run_length(list(zip(streams, signs)))
        keys = [(max(k, 0), s) for k, s in zip(streams[::each], signs[::each])]
        chosen = [plan.directions[k] for k, _ in keys]
        sign = moved(torch.tensor([float(s) for _, s in keys], dtype=torch.float64), plan.device)
        index = moved(torch.tensor([k for k, _ in keys]), plan.device)
        scale = plan.eps.unsqueeze(1) * sign  # [T, G]

        def column(name: str) -> Tensor:
            given = [getattr(d, name) for d in plan.directions]
            if given[0] is None:
                return torch.zeros_like(scale)
            return torch.stack(given, dim=1)[:, index] * scale

        zeros = torch.zeros_like(scale)
        if family is None:
            noise, prev, v = map(column, ("noise", "prev", "v"))
        else:
            noise, prev, v = zeros, family.numel**0.5 * scale, zeros
        table = torch.stack([torch.ones_like(scale), prev, v, zeros, noise], dim=2).float()
        floats = zk.with_live(table.view(-1, 5)).view(table.shape)
        return cls(
            streams, signs, each, _integers_of(chosen, keys, plan, family), floats, noise.float()
        )


def _integers_of(chosen: list, keys: list, plan: Plan, family: Family | None) -> Tensor:
    """The seed of the directions rounds too: the same random bits for all members, so that no
    loss depends on where in a batch its sequence stands."""
    values = []
    for direction, (k, _) in zip(chosen, keys):
        seed = as_int64(int(direction.seed))
        values.append([seed, seed, direction.stream, 0 if family is None else k])
    return moved(torch.tensor(values, dtype=torch.int64), plan.device)


def _run_length(keys: list) -> int:
    """The length that all runs of equal neighbours have; 1 where it is not one."""
    changes = [j for j in range(1, len(keys)) if keys[j] != keys[j - 1]]
    each = changes[0] if changes else len(keys)
    runs = [keys[j : j + each] for j in range(0, len(keys), each)]
    return each if all(len(run) == each and len(set(run)) == 1 for run in runs) else 1


Rule = Callable[[int], tuple[Streams, Signs]]


def rule_of(mapping: Any, signs: Any, size: int, two_sided: bool) -> Rule:
    """From the number of sequences in a batch to their streams and signs."""
    if mapping is None or isinstance(mapping, str):
        name = mapping or "all"
        if name not in NAMED:
            raise ValueError(
                f"mapping={mapping!r} is not known: use 'all', 'per_response', the direction of "
                "each sequence, or a function from the number of sequences to these"
            )
        return lambda sequences: named_map(name, size, two_sided, sequences)
    if callable(mapping):

        def called(sequences: int) -> tuple[Streams, Signs]:
            found = mapping(sequences)
            streams, own = found if isinstance(found, tuple) else (found, signs)
            return fitting(given_map(streams, own, size), sequences)

        return called
    given = given_map(mapping, signs, size)
    return lambda sequences: fitting(given, sequences)


def fitting(given: tuple[Streams, Signs], sequences: int) -> tuple[Streams, Signs]:
    """`given`, where it has an entry for each of the batch's sequences; else ValueError."""
    if len(given[0]) != sequences:
        raise ValueError(
            f"mapping has {len(given[0])} entries where the batch has {sequences} sequences: give "
            "one for each"
        )
    return given
