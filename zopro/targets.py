"""Targeted directions: near the previous policy update, orthogonal to the reward model's update.

Source of the formulas: ZOPrO (arXiv 2503.03460). For each tensor, with n the seeded noise, `prev`
the policy's previous update, u the reward model's, v = u / ||u||:

    p = n - (v . n) v                     orthogonal to the reward's update
    p = p ||prev|| / (||p|| + 1e-8)       as long as the previous update
    z = d prev + sqrt(1 - d^2) p

All of it is linear in n, prev and v, so a direction is three numbers a tensor, from v.n and n.n.
||prev||, v.n and ||v|| are those of the tensors as they are stored (fp32, bf16 or 8 bits with block
scales), so that p is orthogonal to what a pass adds. z is then scaled by sqrt(numel) / ||prev||
over its parameter group, to root mean square 1 in expectation over n: eps and lr mean the same as
for plain directions.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

import zopro_kernels as zk

from . import schedules
from .devices import moved
from .directions import Direction, Plan

# ||p||^2 below this share of ||n||^2 is the rounding of its two terms (v has fp32 elements), as in
# a tensor of one element: p counts as 0 there.
PARALLEL = 1e-6

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


def aim(plan: Plan, targets: Targets, step: int | Tensor) -> None:
    """Turns the plan's plain directions into targeted ones, with one reduction a direction."""
    if any(p not in targets.prev for p in plan.tensors):
        raise RuntimeError(
            "a parameter has begun to require grad since set_targets: call set_targets again, "
            "with an update for it"
        )
    d = targets.used = targets.weight(step)
    across = (1.0 - d * d).sqrt() if isinstance(d, Tensor) else math.sqrt(1.0 - d * d)
    prev = [targets.prev[p] for p in plan.tensors]
    v = [targets.v[p] for p in plan.tensors]

    def make() -> Tensor:
        lengths = [targets.norm[p] for p in plan.tensors]
        numels = [float(p.numel()) for p in plan.tensors]
        v_norms = [targets.v_norm[p] for p in plan.tensors]
        table = torch.tensor([lengths, lengths, numels, v_norms], dtype=torch.float64)
        table[1] = _rms_scale(plan.group_of, table[0], table[2])
        return moved(table, plan.device)

    table = plan.prepared.of("aim", [*prev, None, *v, None, *plan.tensors], make)
    norm, scale, _, v_norm = table
    unit = torch.where(v_norm > 0, v_norm, 1.0)
    for direction in plan.directions:
        vn, nn = _dots(plan, direction, prev, v, table)
        vn = vn / unit
        square = nn - vn * vn
        has_p = square > PARALLEL * nn
        c = across * norm / (square.clamp(min=0.0).sqrt() + 1e-8)
        noise = torch.where(has_p, c * scale, 0.0)
        # A number that is not finite would stop a pass half way through a step: z is 0 instead.
        across_v = noise * vn / unit
        direction.sound = sound = (noise + across_v).isfinite().all()
        direction.noise = torch.where(sound, noise, 0.0)
        direction.prev = torch.where(sound, d * scale, 0.0)
        if any(u is not None for u in v):
            direction.v = torch.where(sound, -across_v, 0.0)
    plan.prev = prev
    # A tensor without v takes part with coefficient 0: any tensor of its shape will do there.
    if any(u is not None for u in v):
        plan.v = [w if u is None else u for u, w in zip(v, prev)]


def _rms_scale(group_of: list[int], norm: Tensor, numel: Tensor) -> Tensor:
    """sqrt(numel / ||prev||^2) over the group of each tensor; 0 where the tensor's prev is 0."""
    out = torch.zeros_like(norm)
    for g in set(group_of):
        members = [t for t, group in enumerate(group_of) if group == g]
        out[members] = (numel[members].sum() / norm[members].square().sum()).sqrt()
    return torch.where(norm > 0.0, out, 0.0)


def _dots(
    plan: Plan,
    direction: Direction,
    prev: list[Stored],
    v: list[Stored | None],
    table: Tensor,
) -> tuple[Tensor, Tensor]:
    """v.n (0 without v) and n.n of each tensor, fp64 [T]; table: as `aim` makes it, [4, T]."""
    norm, _, numel, v_norm = table
    # n.n of signs is numel: only tensors with a v need the reduction.
    rows = [t for t, u in enumerate(v) if u is not None or plan.distribution != "rademacher"]
    if not rows:
        return torch.zeros_like(numel), numel
    index = plan.prepared.constants(rows, plan.device, torch.int64)
    vectors = [prev[t] if v[t] is None else v[t] for t in rows]
    params = [plan.indices[t] for t in rows]
    vectors = plan.prepared.of("vectors", vectors, lambda: zk.TensorSet(vectors, params=params))
    dots = zk.noise_dots(
        vectors,
        direction.seed,
        stream=plan.stream(direction),
        distribution=plan.distribution,
        norms=torch.where(v_norm > 0, v_norm, norm)[index],
        backend=plan.backend,
    )
    vn, nn = moved(dots, plan.device).unbind(1)
    vn = torch.where(v_norm[index] > 0, vn, 0.0)
    return torch.zeros_like(numel).index_copy(0, index, vn), numel.index_copy(0, index, nn)
