"""What a module's forward runs on when its parameters are perturbed copies; their memory."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

import zopro_kernels as zk

from .directions import Plan

ALIGNMENT = 64  # bytes, of each copy


class Scratch:
    """Memory for the copies of one layer at a time, on each device."""

    def __init__(self) -> None:
        self.sizes: dict[torch.device, int] = {}
        self.busy = False
        self._memory: dict[torch.device, Tensor] = {}

    def need(self, tensors: list[Tensor]) -> None:
        """Is large enough for copies of `tensors`, when it is first used."""
        for device, size in _sizes(tensors).items():
            self.sizes[device] = max(size, self.sizes.get(device, 0))

    def copies(self, tensors: list[Tensor]) -> list[Tensor]:
        """Memory of the shapes, dtypes and, where they are dense, strides of `tensors`."""
        used: dict[torch.device, int] = {}
        views = []
        for p in tensors:
            begin = used.get(p.device, 0)
            used[p.device] = begin + _padded(p)
            piece = self._on(p.device)[begin : begin + p.numel() * p.element_size()]
            strides = torch.empty_like(p, device="meta").stride()
            views.append(piece.view(p.dtype).as_strided(p.shape, strides))
        return views

    def _on(self, device: torch.device) -> Tensor:
        if device not in self._memory:
            self._memory[device] = torch.empty(self.sizes[device], dtype=torch.uint8, device=device)
        return self._memory[device]


@dataclass(eq=False)
class Layer:
    """The trainable parameters that one module owns directly, at `rows` of the plan."""

    name: str
    plan: Plan
    rows: list[int]
    scratch: Scratch

    def __post_init__(self) -> None:
        self.tensors = [self.plan.tensors[t] for t in self.rows]
        self._kinds = _kinds(self.tensors)
        first = self.rows[0]
        together = self.rows == list(range(first, first + len(self.rows)))
        self._span = slice(first, first + len(self.rows)) if together else self.rows
        self._made: tuple[list[Tensor], zk.TensorSet] | None = None

    def owned(self, module: nn.Module) -> list[tuple[str, Tensor]]:
        """Names, in `module`, and stored tensors."""
        ids = set(map(id, self.tensors))
        return [(n, p) for n, p in module.named_parameters(recurse=False) if id(p) in ids]

    def fits(self) -> bool:
        """Whether its parameters still have the shapes, dtypes and devices that they had."""
        return self._kinds == _kinds(self.tensors)

    def without(self, held: set[int]) -> Layer:
        """The layer of those parameters whose id is not in `held`, with memory of its own."""
        rows = [t for t in self.rows if id(self.plan.tensors[t]) not in held]
        return Layer(self.name, self.plan, rows, own_scratch([self.plan.tensors[t] for t in rows]))

    def perturbed(self, plan: Plan, integers: Tensor, floats: Tensor) -> list[Tensor]:
        """Copies of its parameters after the pass of `integers` and `floats`, which are those of
        all tensors of `plan`; in its scratch memory."""
        if self._made is None:
            copies = self.scratch.copies(self.tensors)
            self._made = copies, self.plan.set_of(self.rows, copies)
        copies, tensor_set = self._made
        torch._foreach_copy_(copies, self.tensors)
        tensor_set.add_noise_(
            integers,
            floats[self._span],
            distribution=plan.distribution,
            stochastic=plan.rounding == "stochastic",
            backend=plan.backend,
        )
        return copies


def own_scratch(tensors: list[Tensor]) -> Scratch:
    """Memory for the copies of these `tensors` alone."""
    scratch = Scratch()
    scratch.need(tensors)
    return scratch


def layers_of(model: nn.Module, plan: Plan, held: list[Tensor]) -> dict[nn.Module | None, Layer]:
    """The modules of `model` that own parameters of `plan` directly.

    They share the memory of the largest; those inside of which others run have their own. Under
    None: what is `held` for a whole evaluation, in memory of its own, which modules of at least
    half its size (an embedding beside a head) use instead of theirs.
    Raises ValueError for a parameter that no module owns.
    """
    places = {id(p): t for t, p in enumerate(plan.tensors)}
    apart = {places[id(p)] for p in held if id(p) in places}
    owned, rows, names = set(), {}, {}
    for name, module in model.named_modules():
        found = {places[id(p)] for p in module.parameters(recurse=False) if id(p) in places}
        owned |= found
        if found - apart:
            rows[module], names[module] = sorted(found - apart), name or type(module).__name__
    if missing := [t for t in range(len(plan.tensors)) if t not in owned]:
        p = plan.tensors[missing[0]]
        raise ValueError(
            f"the attached {type(model).__name__} has no module that owns parameter "
            f"{plan.indices[missing[0]]} of the optimizer, {p.dtype} {tuple(p.shape)}: attach the "
            "model whose parameters the optimizer was built from"
        )
    kept = [plan.tensors[t] for t in sorted(apart)]
    shared, beside, layers = Scratch(), own_scratch(kept), {}
    for module, found in rows.items():
        tensors = [plan.tensors[t] for t in found]
        nested = any(m in rows for m in module.modules() if m is not module)
        scratch = own_scratch(tensors)
        if not nested:
            large = apart and 2 * _total(tensors) >= _total(kept)
            scratch = beside if large else shared
            scratch.need(tensors)
        layers[module] = Layer(names[module], plan, found, scratch)
    if apart:
        layers[None] = Layer("held", plan, sorted(apart), beside)
    return layers


def _kinds(tensors: list[Tensor]) -> list[tuple]:
    return [(p.shape, p.dtype, p.device) for p in tensors]


def _padded(p: Tensor) -> int:
    return -(-p.numel() * p.element_size() // ALIGNMENT) * ALIGNMENT


def _total(tensors: list[Tensor]) -> int:
    return sum(map(_padded, tensors))


def _sizes(tensors: list[Tensor]) -> dict[torch.device, int]:
    sizes: dict[torch.device, int] = {}
    for p in tensors:
        sizes[p.device] = sizes.get(p.device, 0) + _padded(p)
    return sizes
