"""Forwards that run each sequence of a batch on its own copy of a layer's parameters."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import zopro_kernels as zk

from ..directions import Plan
from .members import Members

Memory = zk.Room  # of a population, for copies that are made


@dataclass(eq=False)
class Source:
    """A parameter, at row `t` of the plan, and how its copies are drawn."""

    plan: Plan
    t: int
    memory: Memory
    family: Tensor | None = None  # [m, *shape], fp32
    zeros: Tensor | None = None  # of low-rank factors: [(out + in) rank]

    @property
    def parameter(self) -> Tensor:
        return self.plan.tensors[self.t]

    def copies(self, members: Members, first: int, count: int) -> Tensor:
        """Members first .. first + count - 1 of theta + r z: [count, *shape], in shared memory."""
        p, rows = self.parameter.detach(), slice(first, first + count)
        out = self.memory.copies(count, p.shape, p)
        made = self._made(p, members.integers[rows], members.floats[self.t, rows])
        zk.perturbed_into(replace(made, out=out.view(count, -1)), self.plan.backend)
        return out

    def linear(self, x: Tensor, members: Members) -> Tensor:
        """Each member's tokens x [G, T, in] times its copy of the weight: [G, T, out]."""
        made = self._made(self.parameter.detach(), members.integers, members.floats[self.t])
        return zk.linear_of(x, made, self.memory, self.plan.backend)

    def factors(self, members: Members, first: int, count: int) -> Tensor:
        """The factors of members' low-rank directions: [count, (out + in) rank]."""
        out = self.memory.copies(count, self.zeros.shape, self.zeros)
        unit = torch.tensor([1.0, 0.0, 0.0, 1.0, 1.0], device=out.device).expand(count, 5)
        made = self._made(self.zeros, members.integers[first : first + count], unit)
        zk.perturbed_into(replace(made, out=out, prev=None, v=None), self.plan.backend)
        return out

    def _made(self, of: Tensor, integers: Tensor, floats: Tensor) -> zk.Copies:
        """Copies of `of`, yet to be made."""
        plan, t, prev = self.plan, self.t, self.family
        if prev is None and plan.prev is not None:
            prev = plan.prev[t]
        v = None if plan.v is None else plan.v[t]
        return zk.Copies(
            None, of.reshape(-1), integers, floats, plan.indices[t], 0, plan.distribution,
            plan.rounding == "stochastic", prev, v,
        )  # fmt: skip


@dataclass(eq=False)
class Layer:
    """A module whose forward is replaced: `sources` by the names of its own parameters."""

    name: str
    module: nn.Module
    sources: dict[str, Source]
    members: Callable[[str, Tensor], Members]  # of the batch that the layer sees
    rank: int = 1
    ran: bool = False
    original: Any = None
    _kept: Any = field(default=None)

    def replace(self) -> None:
        """Puts the forward in place; `restore` takes it away again."""
        self._kept = self.module.__dict__.get("forward")
        self.original = self.module.forward
        self.module.forward = self._forward

    def restore(self) -> None:
        if self._kept is None:
            self.module.__dict__.pop("forward", None)
        else:
            self.module.forward = self._kept

    def run(self, x: Tensor, members: Members) -> Tensor:
        raise NotImplementedError

    def _forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        members = self.members(self.name, x)
        self.ran = True
        return self.run(x, members, *args, **kwargs)

    def small(self, name: str, members: Members, x: Tensor) -> Tensor:
        """A vector parameter's copies, one a sequence, to broadcast over x: [S, 1, ..., d]."""
        source = self.sources[name]
        copies = source.copies(members, 0, len(members.integers)).repeat_interleave(members.each, 0)
        return copies.view(len(copies), *[1] * (x.dim() - 2), -1)


class LinearLayer(Layer):
    """nn.Linear: y_j = x_j (W + r Z_k(j))^T + b, by `zk.linear_of`."""

    def run(self, x: Tensor, members: Members) -> Tensor:
        if "weight" in self.sources:
            y = self._products(x, members)
        else:
            y = F.linear(x, self.module.weight)
        if "bias" in self.sources:
            return y.add_(self.small("bias", members, y))
        return y if self.module.bias is None else y.add_(self.module.bias)

    def _products(self, x: Tensor, members: Members) -> Tensor:
        source, groups = self.sources["weight"], len(members.integers)
        y = source.linear(_cast(x.reshape(groups, -1, x.shape[-1])), members)
        return y.view(*x.shape[:-1], y.shape[-1])


class LowRankLayer(LinearLayer):
    """nn.Linear of a large weight: y_j = x_j W^T + b + r (x_j b_k) a_k^T / sqrt(rank)."""

    def _products(self, x: Tensor, members: Members) -> Tensor:
        source, groups = self.sources["weight"], len(members.integers)
        outs, ins = source.parameter.shape
        x3 = _cast(x.reshape(groups, -1, ins))
        y = F.linear(x, source.parameter).view(*x3.shape[:2], outs)
        scale = (members.weights[source.t] / math.sqrt(self.rank)).view(-1, 1, 1)
        at_once = source.memory.rows(x.device, source.zeros.numel() * source.zeros.element_size())
        for first in range(0, groups, at_once):
            part = slice(first, first + at_once)
            drawn = source.factors(members, first, min(at_once, groups - first)).to(y.dtype)
            a, b = drawn.view(len(drawn), outs + ins, self.rank).split([outs, ins], dim=1)
            inner = torch.bmm(x3[part], b) * scale[part].to(y.dtype)
            y[part] += torch.bmm(inner, a.transpose(1, 2))
        return y.view(*x.shape[:-1], outs)


class NormLayer(Layer):
    """nn.LayerNorm and nn.RMSNorm: the normalised input, times and plus each sequence's vectors."""

    def run(self, x: Tensor, members: Members) -> Tensor:
        module = self.module
        if isinstance(module, nn.LayerNorm):
            y = F.layer_norm(x, module.normalized_shape, None, None, module.eps)
        else:
            y = F.rms_norm(x, module.normalized_shape, None, module.eps)
        for name, apply in (("weight", Tensor.mul), ("bias", Tensor.add)):
            if name in self.sources:
                y = apply(y, self.small(name, members, y).to(y.dtype))
            elif getattr(module, name, None) is not None:
                y = apply(y, getattr(module, name))
        return y


class OwnNormLayer(Layer):
    """A model's own RMSNorm of one vector: its forward, on a vector that broadcasts by sequence."""

    def run(self, x: Tensor, members: Members, *args: Any, **kwargs: Any) -> Tensor:
        kept = self.module._parameters["weight"]
        self.module._parameters["weight"] = self.small("weight", members, x)
        try:
            return self.original(x, *args, **kwargs)
        finally:
            self.module._parameters["weight"] = kept


def _compute_dtype(x: Tensor) -> torch.dtype:
    """What a product is computed in: autocast's, or that of the input."""
    kind = x.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype


def _cast(x: Tensor) -> Tensor:
    return x.to(_compute_dtype(x))
