"""Forwards that run each sequence of a batch on its own copy of a layer's parameters."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import zopro_kernels as zk

from ..directions import Plan
from .members import Members

# Copies that are alive at a time: on a CPU what its second cache level holds, on a GPU little
# beside a forward's own memory, in few launches.
SCRATCH_BYTES = {"cpu": 1 << 19}
OTHER_SCRATCH_BYTES = 1 << 24


class Memory:
    """Room for copies, used by one layer after the other."""

    def __init__(self) -> None:
        self._of: dict[torch.device, Tensor] = {}

    def rows(self, device: torch.device, bytes_each: int) -> int:
        """How many copies of so many bytes are made at a time: at least one."""
        room = SCRATCH_BYTES.get(device.type, OTHER_SCRATCH_BYTES)
        return max(1, room // max(bytes_each, 1))

    def copies(self, count: int, shape: tuple[int, ...], like: Tensor) -> Tensor:
        """[count, *shape] of the dtype and device of `like`, of any contents."""
        size = count * math.prod(shape) * like.element_size()
        kept = self._of.get(like.device)
        if kept is None or kept.numel() < size:
            kept = self._of[like.device] = torch.empty(size, dtype=torch.uint8, device=like.device)
        return kept[:size].view(like.dtype).view(count, *shape)


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
        plan, t, p = self.plan, self.t, self.parameter.detach()
        out = self.memory.copies(count, p.shape, p)
        prev = self.family
        if prev is None and plan.prev is not None:
            prev = plan.prev[t]
        v = None if plan.v is None else plan.v[t]
        self._draw(out, p, members, members.floats[t], first, prev, v)
        return out

    def factors(self, members: Members, first: int, count: int) -> Tensor:
        """The factors of members' low-rank directions: [count, (out + in) rank]."""
        out = self.memory.copies(count, self.zeros.shape, self.zeros)
        unit = torch.tensor([1.0, 0.0, 0.0, 1.0, 1.0], device=out.device)
        floats = unit.expand(len(members.integers), 5)
        self._draw(out, self.zeros, members, floats, first, None, None)
        return out

    def _draw(
        self, out: Tensor, of: Tensor, members: Members, floats: Tensor, first: int, prev: Any,
        v: Any,
    ) -> None:  # fmt: skip
        plan, rows = self.plan, slice(first, first + len(out))
        copies = zk.Copies(
            out.view(len(out), -1), of.reshape(-1), members.integers[rows], floats[rows],
            plan.indices[self.t], 0, plan.distribution, plan.rounding == "stochastic", prev, v,
        )  # fmt: skip
        zk.perturbed_into(copies, plan.backend)


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
    """nn.Linear: y_j = x_j (W + r Z_k(j))^T + b, in batched products over chunks of members."""

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
        weight = source.parameter
        x3, dtype = _cast(x.reshape(groups, -1, x.shape[-1])), _compute_dtype(x)
        at_once = source.memory.rows(weight.device, weight.numel() * weight.element_size())
        y = torch.empty((*x3.shape[:2], weight.shape[0]), dtype=dtype, device=x.device)
        for first in range(0, groups, at_once):
            part = slice(first, first + at_once)
            copies = source.copies(members, first, min(at_once, groups - first)).to(dtype)
            torch.bmm(x3[part], copies.transpose(1, 2), out=y[part])
        return y.view(*x.shape[:-1], weight.shape[0])


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
