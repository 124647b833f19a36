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
from dataclasses import dataclass

import torch
from torch import Tensor

import zopro_kernels as zk

from .devices import moved
from .directions import Direction, Plan
from .prepared import Prepared
from .targets import Stored, Targets
from .trainable import Members

# ||p||^2 below this share of ||n||^2 is the rounding of its two terms (v has fp32 elements), as in
# a tensor of one element: p counts as 0 there.
PARALLEL = 1e-6


@dataclass(eq=False)
class Lists:
    """prev and v in the order of the trainable tensors; `beside` is v as a pass takes it, or None
    where no tensor has one."""

    prev: list[Stored]
    v: list[Stored | None]
    beside: list[Stored] | None


def lists_of(prepared: Prepared, targets: Targets, members: Members) -> Lists:
    """Those of `targets`; RuntimeError for a tensor that they do not have."""

    def make() -> Lists:
        if any(p not in targets.prev for p in members.tensors):
            raise RuntimeError(
                "a parameter has begun to require grad since set_targets: call set_targets again, "
                "with an update for it"
            )
        prev = [targets.prev[p] for p in members.tensors]
        v = [targets.v[p] for p in members.tensors]
        # A tensor without v takes part with coefficient 0: any tensor of its shape will do there.
        some = any(u is not None for u in v)
        return Lists(prev, v, [w if u is None else u for u, w in zip(v, prev)] if some else None)

    return prepared.of("lists", [targets, members], make)


@dataclass(eq=False)
class Table:
    """What of a direction does not change: fp64 [T], and of the R tensors that a reduction reads.

    norm: ||prev||. scale: sqrt(numel / ||prev||^2) over the group, 0 where the tensor's prev is 0.
    unit: ||v||, 1 without v; None: 1 everywhere. index: int64 [R], None: all T in order. norms:
    fp64 [R], the length of what the reduction reads. has_v: bool [R], None: all.
    """

    norm: Tensor
    scale: Tensor
    numel: Tensor
    unit: Tensor | None
    vectors: zk.TensorSet | None
    index: Tensor | None
    norms: Tensor
    has_v: Tensor | None


def _table(plan: Plan, targets: Targets, lists: Lists) -> Table:
    def sent(values: list[float]) -> Tensor:
        return moved(torch.tensor(values, dtype=torch.float64), plan.device)

    norm = torch.tensor([targets.norm[p] for p in plan.tensors], dtype=torch.float64)
    numel = torch.tensor([float(p.numel()) for p in plan.tensors], dtype=torch.float64)
    lengths = [targets.v_norm[p] for p in plan.tensors]
    units = [x if x > 0.0 else 1.0 for x in lengths]
    # n.n of signs is numel: only tensors with a v need the reduction.
    signs = plan.distribution == "rademacher"
    rows = [t for t, u in enumerate(lists.v) if u is not None or not signs]
    vectors = [lists.prev[t] if lists.v[t] is None else lists.v[t] for t in rows]
    params = [plan.indices[t] for t in rows]
    has_v = [lengths[t] > 0.0 for t in rows]
    return Table(
        norm=moved(norm, plan.device),
        scale=moved(_rms_scale(plan.group_of, norm, numel), plan.device),
        numel=moved(numel, plan.device),
        unit=None if set(units) == {1.0} else sent(units),
        vectors=zk.TensorSet(vectors, params=params) if rows else None,
        index=None if len(rows) == len(lengths) else moved(torch.tensor(rows), plan.device),
        norms=sent([lengths[t] or targets.norm[plan.tensors[t]] for t in rows]),
        has_v=None if all(has_v) else moved(torch.tensor(has_v), plan.device),
    )


def aim(plan: Plan, targets: Targets, lists: Lists, step: int | Tensor) -> None:
    """Turns the plan's plain directions into targeted ones, with one reduction a direction."""
    plan.d = d = targets.used = targets.weight(step)
    across = (1.0 - d * d).sqrt() if isinstance(d, Tensor) else math.sqrt(1.0 - d * d)
    given = [lists, plan.placed, plan.members]
    table = plan.prepared.of("aim", given, lambda: _table(plan, targets, lists))
    length, along = across * table.norm, d * table.scale
    for direction in plan.directions:
        vn, nn = _dots(plan, direction, table)
        vn = _over(vn, table.unit)
        square = nn - vn * vn
        has_p = square > PARALLEL * nn
        c = length / (square.clamp(min=0.0).sqrt() + 1e-8)
        noise = torch.where(has_p, c * table.scale, plan.zeros)
        numbers = [noise, along]
        if lists.beside is not None:
            numbers.append(-_over(noise * vn, table.unit))
        # A number that is not finite would stop a pass half way through a step: z is 0 instead.
        numbers = torch.stack(numbers)
        direction.reach = numbers.abs().max()
        direction.sound = direction.reach < math.inf
        numbers = torch.where(direction.sound, numbers, plan.zeros).unbind()
        direction.noise, direction.prev, *v = numbers
        direction.v = v[0] if v else None
        direction.known = {}


def _over(x: Tensor, unit: Tensor | None) -> Tensor:
    return x if unit is None else x / unit


def _rms_scale(group_of: list[int], norm: Tensor, numel: Tensor) -> Tensor:
    """sqrt(numel / ||prev||^2) over the group of each tensor; 0 where the tensor's prev is 0."""
    out = torch.zeros_like(norm)
    for g in set(group_of):
        members = [t for t, group in enumerate(group_of) if group == g]
        out[members] = (numel[members].sum() / norm[members].square().sum()).sqrt()
    return torch.where(norm > 0.0, out, 0.0)


def _dots(plan: Plan, direction: Direction, table: Table) -> tuple[Tensor, Tensor]:
    """v.n (0 without v) and n.n of each tensor, fp64 [T]."""
    if table.vectors is None:
        return plan.zeros, table.numel
    dots = zk.noise_dots(
        table.vectors,
        direction.seed,
        stream=plan.stream(direction),
        distribution=plan.distribution,
        norms=table.norms,
        backend=plan.backend,
    )
    vn, nn = moved(dots, plan.device).unbind(1)
    if table.has_v is not None:
        vn = torch.where(table.has_v, vn, 0.0)
    if table.index is None:
        return vn, nn
    zeros, index = plan.zeros, table.index
    return zeros.index_copy(0, index, vn), table.numel.index_copy(0, index, nn)
