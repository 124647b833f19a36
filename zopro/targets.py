"""Targets: what aims the directions of the next steps (aiming.py), as it is given and kept."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

import zopro_kernels as zk

from . import schedules

STORAGES = ("fp32", "bf16", "int8")
Stored = Tensor | zk.Int8Blocks


@dataclass(eq=False)
class Targets:
    """prev and v of each trainable parameter, as stored, on its device; the weight's schedule."""

    prev: dict[Tensor, Stored]
    v: dict[Tensor, Stored | None]
    norm: dict[Tensor, float]  # ||prev||
    v_norm: dict[Tensor, float]  # ||v||: 1 in fp32, near 1 in other forms, 0 where there is none
    schedule: str | schedules.Schedule
    steps: int | None
    half_life: float
    start: int  # the optimizer's step at which d = schedule(0, steps)
    storage: str = "fp32"
    used: float | Tensor = 0.0  # d of the last directions aimed

    def weight(self, step: int | Tensor) -> float | Tensor:
        if isinstance(step, Tensor):
            since = step - self.start
            return schedules.weight_on_device(self.schedule, since, self.steps, self.half_life)
        function = schedules.resolve(self.schedule, self.steps, self.half_life)
        return schedules.weight(function, step - self.start, self.steps)


def aligned(
    argument: str, update: Any, params: list[Tensor], names: list[str] | None, *, partial: bool
) -> list[Tensor | None]:
    """One tensor (or, with `partial`, None) for each parameter, from a sequence or a mapping."""
    if isinstance(update, Mapping):
        if names is None:
            raise ValueError(
                f"{argument} is a mapping, but the parameters have no names: build "
                "ZOPrO from model.named_parameters(), or give a sequence"
            )
        missing = [name for name in names if name not in update]
        if missing and not partial:
            raise ValueError(
                f"{argument} has no entry for parameter {missing[0]!r}: give one for "
                "each parameter that requires grad"
            )
        update = [update.get(name) for name in names]
    elif isinstance(update, Tensor) or not isinstance(update, Iterable):
        raise TypeError(
            f"{argument} is a {type(update).__name__}: give a sequence of tensors in "
            "parameter order, or a mapping by name"
        )
    update = list(update)
    if len(update) != len(params):
        raise ValueError(
            f"{argument} has {len(update)} tensors for {len(params)} parameters that "
            "require grad: give one for each"
        )
    for i, (given, p) in enumerate(zip(update, params)):
        if given is not None or not partial:
            _check_update(f"{argument}[{i if names is None else names[i]!r}]", given, p)
    return update


def _check_update(label: str, given: Any, p: Tensor) -> None:
    if not isinstance(given, Tensor):
        raise TypeError(f"{label} is a {type(given).__name__}: give a torch.Tensor")
    if given.shape != p.shape:
        raise ValueError(
            f"{label} has shape {tuple(given.shape)} where its parameter has "
            f"{tuple(p.shape)}: give the same shape"
        )
    if not given.is_floating_point() or given.device.type == "meta":
        raise TypeError(f"{label} is {given.dtype} on {given.device}: give real numbers in memory")
    if not bool(torch.isfinite(given).all()):
        raise ValueError(f"{label} holds a number that is not finite: give finite numbers")


def build(
    params: list[Tensor],
    policy: list[Tensor],
    reward: list[Tensor | None],
    schedule: str | schedules.Schedule,
    steps: int | None,
    half_life: float,
    start: int,
    storage: str,
) -> Targets:
    """Copies `policy` and normalises `reward`, both to `storage` on the parameters' devices."""
    prev = {p: _stored(_private(update, p), storage) for p, update in zip(params, policy)}
    v: dict[Tensor, Stored | None] = {}
    for p, u in zip(params, reward):
        v[p] = None if u is None else _private(u, p)
        norm_u = 0.0 if u is None else length(v[p])
        v[p] = _stored(v[p].div_(norm_u), storage) if norm_u > 0.0 else None
    return Targets(prev, v, *norms(prev, v), schedule, steps, half_life, start, storage)


def norms(
    prev: dict[Tensor, Stored], v: dict[Tensor, Stored | None]
) -> tuple[dict[Tensor, float], dict[Tensor, float]]:
    """||prev|| and ||v|| as stored; of a v in fp32 1, as it was made."""
    of_v = {p: 0.0 if u is None else 1.0 for p, u in v.items()}
    for p, u in v.items():
        if u is not None and u.dtype != torch.float32:
            of_v[p] = length(u)
    return {p: length(update) for p, update in prev.items()}, of_v


def _stored(x: Tensor, storage: str) -> Stored:
    if storage == "int8":
        return zk.quantise(x)
    return x.to(torch.bfloat16) if storage == "bf16" else x


def _private(update: Tensor, p: Tensor) -> Tensor:
    return update.detach().to(p.device, torch.float32, copy=True).contiguous()


def length(x: Stored) -> float:
    """Euclidean norm, summed in fp64."""
    return torch.linalg.vector_norm(x.float(), dtype=torch.float64).item()


def check_groups(targets: Targets, params: list[Tensor], group_of: list[int]) -> None:
    """Refuses a group whose previous update is 0: no length to scale its direction to."""
    for g in set(group_of):
        if all(targets.norm[p] == 0.0 for p, group in zip(params, group_of) if group == g):
            raise ValueError(
                f"policy_update is 0 in every tensor of parameter group {g}: leave these "
                "parameters out of training, or train without targets"
            )
