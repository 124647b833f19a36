"""Updates along directions that are no noise of the pass: a family's, and low-rank ones."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

import zopro_kernels as zk

from ..devices import moved
from ..directions import Plan
from .family import Family

PRODUCT_BYTES = 1 << 22  # of the sum of low-rank directions that is made at a time


@dataclass(eq=False)
class Walk:
    """theta <- (1 - lr wd) theta - lr g, from where the weights are theta itself."""

    def __call__(
        self, weights: Any, plan: Plan, groups: list, slopes: Tensor, finite: Tensor,
        ahead: Plan | None = None,
    ) -> Tensor:  # fmt: skip
        """As update.apply: the weights stay theta where `finite` is False or a number is not finite
        in fp32. `ahead` is only made, not gone to: the next step finds its way from theta."""
        rates, keeps = [], []
        for group in groups:
            lr = float(group["lr"])
            rates.append(lr if group["maximize"] else -lr)
            keeps.append(1.0 - lr * float(group["weight_decay"]))
        rate, decay = (
            moved(torch.tensor([x[g] for g in plan.group_of], dtype=torch.float64), plan.device)
            for x in (rates, keeps)
        )
        shares = (rate / plan.eps).unsqueeze(1) * slopes  # [T, K]
        applied = finite & shares.float().isfinite().all()
        shares = torch.where(applied, shares, 0.0)
        seed = weights._next_rounding_seed()
        self.write(plan, shares, torch.where(applied, decay, 1.0), seed)
        return applied

    def write(self, plan: Plan, shares: Tensor, decay: Tensor, rounding_seed: int) -> None:
        """theta[t] <- decay[t] theta[t] + sum of shares[t, k] z_k, unless averaged; fp64."""
        raise NotImplementedError


@dataclass(eq=False)
class FamilyWalk(Walk):
    """Along the gradient's part in the span: the sum of (g . q_i) q_i, made once a step, a tensor
    for each parameter, then one pass."""

    family: Family = None

    def write(self, plan: Plan, shares: Tensor, decay: Tensor, rounding_seed: int) -> None:
        # slopes are g . z_i eps with z_i = sqrt(d) q_i
        along = (shares / self.family.numel**0.5).float()
        combined = [
            torch.tensordot(moved(c, q.device), q, dims=1) for c, q in zip(along, self.family.basis)
        ]
        zk.add_noise_(
            plan.tensors, [], [], decay=decay, params=plan.indices, rounding=plan.rounding,
            rounding_seed=rounding_seed, prev=combined, prev_coeffs=1.0, backend=plan.backend,
        )  # fmt: skip


@dataclass(eq=False)
class LowRankWalk(Walk):
    """The tensors `large` [out, in] go along z = a b^T / sqrt(rank) instead of noise, the others as
    ever.

    a is [out, rank], b [in, rank]: the rows of one array [(out + in), rank] of the law's noise for
    the tensor's index and the direction's stream. The products a_i b_j are uncorrelated, of mean 0
    and mean square 1, so z has rms 1 and E z z^T = I as plain noise has.
    """

    large: list[int] = field(default_factory=list)
    rank: int = 1

    def write(self, plan: Plan, shares: Tensor, decay: Tensor, rounding_seed: int) -> None:
        shares = shares / shares.shape[1]
        seeds = [int(d.seed) for d in plan.directions]
        streams = [d.stream for d in plan.directions]
        rows = [t for t in range(len(plan.tensors)) if t not in self.large]
        if rows:
            index = moved(torch.tensor(rows), plan.device)
            zk.add_noise_(
                [plan.tensors[t] for t in rows], seeds, shares[index], decay=decay[index],
                distribution=plan.distribution, params=[plan.indices[t] for t in rows],
                streams=streams, rounding=plan.rounding, rounding_seed=rounding_seed,
                backend=plan.backend,
            )  # fmt: skip
        for t in self.large:
            self._large(plan, t, shares[t].float() / math.sqrt(self.rank), decay[t], rounding_seed)

    def _large(self, plan: Plan, t: int, shares: Tensor, decay: Tensor, rounding_seed: int) -> None:
        """W <- decay W + sum_k shares[k] a_k b_k^T, some rows at a time, each written once."""
        weight = plan.tensors[t].detach()
        outs, ins = weight.shape
        a, b = self.factors(plan, t).split([outs, ins], dim=1)  # [K, out or in, rank]
        left = (a * moved(shares, a.device).view(-1, 1, 1)).transpose(0, 1).reshape(outs, -1)
        right = b.transpose(0, 1).reshape(ins, -1)
        rows = max(1, PRODUCT_BYTES // (4 * ins))
        for first in range(0, outs, rows):
            product = left[first : first + rows] @ right.t()
            zk.add_noise_(
                [weight[first : first + rows]], [], [], decay=decay, params=[plan.indices[t]],
                offsets=[first * ins], rounding=plan.rounding, rounding_seed=rounding_seed,
                prev=[product], prev_coeffs=1.0, backend=plan.backend,
            )  # fmt: skip

    def factors(self, plan: Plan, t: int) -> Tensor:
        """a above b of all K directions of large tensor t: fp32 [K, out + in, rank]."""
        outs, ins = plan.tensors[t].shape
        zeros = torch.zeros((outs + ins) * self.rank, device=plan.tensors[t].device)
        drawn = zk.perturbed(
            zeros, [int(d.seed) for d in plan.directions], [1.0] * len(plan.directions),
            streams=[d.stream for d in plan.directions], param=plan.indices[t],
            distribution=plan.distribution, backend=plan.backend,
        )  # fmt: skip
        return drawn.view(-1, outs + ins, self.rank)
