"""What all copies of a response have in common is computed once: the layers below the first
perturbed one.

Their output does not depend on r, so it is the same for all copies, whatever the direction. A
submodule without perturbed parameters that runs before any perturbed layer gets the first copy of
each response alone, and gives its output back as `Repeated`, which is laid out n times only where
something else than such a submodule looks at it. With a last norm that trains this is all of the
model but the norm and the head; with LoRA on the upper layers, the lower ones.

Shared only where it is certain: the batch came from `copies`, its copies are still equal when the
model gets them, and no dimension but the first has their number. Everything else runs as it is.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

LISTS = (nn.ModuleList, nn.ModuleDict)  # never called themselves
PLAIN = (int, float, bool, str, torch.dtype, torch.device, type(None))


class Repeated(Tensor):
    """`rows` [B, ...] as often as `blocks` says, one whole batch after the other: [n B, ...].

    Any operation makes the whole tensor, once, but a cut along another dimension than the first.
    """

    @staticmethod
    def __new__(cls, rows: Tensor, blocks: int) -> Repeated:
        shape = (blocks * len(rows), *rows.shape[1:])
        return torch.Tensor._make_wrapper_subclass(
            cls, shape, dtype=rows.dtype, device=rows.device, requires_grad=False
        )

    def __init__(self, rows: Tensor, blocks: int) -> None:
        self.rows, self.blocks, self._whole = rows, blocks, None

    def whole(self) -> Tensor:
        if self._whole is None:
            self._whole = self.rows.repeat(self.blocks, *[1] * (self.rows.dim() - 1))
        return self._whole

    def first(self) -> Tensor:
        """The first of the blocks: [B, ...]; after writes in place, as they left it."""
        return self.rows if self._whole is None else self._whole[: len(self.rows)]

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten.slice.Tensor and len(args) > 1 and args[1] >= 1:
            return cls(func(args[0].first(), *args[1:], **(kwargs or {})), args[0].blocks)
        return func(*wholes(args), **wholes(kwargs or {}))


def mapped(apply: Callable[[Tensor], Any], value: Any) -> Any:
    """`value`, a tensor or nested tuples, lists and dictionaries, with `apply` to its tensors."""
    if isinstance(value, Tensor):
        return apply(value)
    if type(value) in (tuple, list):
        return type(value)(mapped(apply, x) for x in value)
    return {k: mapped(apply, x) for k, x in value.items()} if type(value) is dict else value


def wholes(value: Any) -> Any:
    return mapped(lambda x: x.whole() if isinstance(x, Repeated) else x, value)


def leaves(value: Any) -> list[Any]:
    if type(value) in (tuple, list):
        return [leaf for x in value for leaf in leaves(x)]
    if type(value) is dict:
        return [leaf for k in value for leaf in leaves(value[k])]
    return [value]


@dataclass(eq=False)
class Sharing:
    """Of one population's block. blocks, rows: n and B of the batch that `copies` made; 0: none.

    keep: the outputs are kept for further forwards on the same responses (other parts of the
    mapping): one [B, ...] tensor for each shared submodule.
    """

    model: nn.Module
    perturbed: list[nn.Module]
    blocks: int = 0
    rows: int = 0
    keep: bool = False
    active: bool = False  # in a forward of the model, before its first perturbed layer
    seen: int = 0  # sequences that the shared submodules ran, all together
    _kept: dict[tuple[int, int], Any] = field(default_factory=dict)
    _calls: dict[int, int] = field(default_factory=dict)
    _given: list[Any] | None = None
    _odd: set[int] = field(default_factory=set)  # whose outputs are none a response
    _undo: list[Callable[[], None]] = field(default_factory=list)

    def install(self) -> None:
        """Hooks and forwards in place, until `remove`. Before the layers are replaced."""
        self._undo = [
            self.model.register_forward_pre_hook(self._begin, with_kwargs=True).remove,
            self.model.register_forward_hook(self._end, always_call=True).remove,
        ]
        for module in self.perturbed:
            hook = module.register_forward_pre_hook(self._perturbed, prepend=True, with_kwargs=True)
            self._undo.append(hook.remove)
        for number, module in enumerate(shared(self.model, self.perturbed)):
            self._replace(number, module)

    def remove(self) -> None:
        for undo in reversed(self._undo):
            undo()
        self._undo, self._kept, self._given = [], {}, None

    def _replace(self, number: int, module: nn.Module) -> None:
        kept, original = module.__dict__.get("forward"), module.forward

        def forward(*args: Any, **kwargs: Any) -> Any:
            return self._run(number, original, args, kwargs)

        def undo() -> None:
            module.__dict__.pop("forward", None)
            if kept is not None:
                module.forward = kept

        module.forward = forward
        self._undo.append(undo)

    def _begin(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        self.active = self._certain(leaves((args, kwargs)))
        self._calls = {}

    def _end(self, *_: Any) -> None:
        self.active = False

    def _perturbed(self, module: nn.Module, args: Any, kwargs: Any) -> Any:
        self.active = False
        return wholes(args), wholes(kwargs)

    def _certain(self, given: list[Any]) -> bool:
        """Whether what the model gets is n equal blocks of B responses, and nothing else could be
        taken for it. Looks at the values: of token numbers and masks as a rule."""
        n, size = self.blocks, self.blocks * self.rows
        if n < 2 or self.rows < 2 or not all(map(_plain, given)):
            return False
        batch = [x for x in given if isinstance(x, Tensor) and x.dim() and len(x) == size]
        others = [x for x in given if isinstance(x, Tensor) and not any(x is y for y in batch)]
        if not batch or any(x.dim() < 2 or size in x.shape[1:] for x in batch):
            return False
        if any(size in x.shape for x in others):
            return False
        if not all(_equal(x.reshape(n, -1), x[: self.rows].reshape(1, -1)) for x in batch):
            return False
        if self.keep:
            now = [x[: self.rows] if any(x is y for y in batch) else x for x in given]
            if self._given is None or not _same(now, self._given):
                self._kept = {}
            self._given = now
        return True

    def _run(self, number: int, original: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        if not self.active or number in self._odd:
            return original(*wholes(args), **wholes(kwargs))
        call = self._calls[number] = self._calls.get(number, -1) + 1
        cut = self._cut(args, kwargs)
        if cut is None:
            return original(*wholes(args), **wholes(kwargs))
        out = self._kept.get((number, call))
        if out is None:
            out = original(*cut[0], **cut[1])
            if not self._spreads(out):
                self._odd.add(number)
                return original(*wholes(args), **wholes(kwargs))
            self.seen += self.rows
            if self.keep:
                self._kept[number, call] = out
        return mapped(lambda x: Repeated(x, self.blocks), out)

    def _cut(self, args: Any, kwargs: Any) -> Any:
        """The arguments of the first block alone; None where one may be something else."""
        given, size, found = leaves((args, kwargs)), self.blocks * self.rows, False
        for x in given:
            if not _plain(x):
                return None
            if not isinstance(x, Tensor) or not x.dim():
                continue
            batch = len(x) == size and x.dim() > 1
            # Of another layout (heads folded into the batch, lengths), or as many by accident.
            odd = size in x.shape[1:] or (not batch and (len(x) % size in (0, 1)) and len(x) > 1)
            if odd or (not batch and len(x) == self.rows):
                return None
            found |= batch

        def first(x: Tensor) -> Tensor:
            if not x.dim() or len(x) != size:
                return x
            return x.first() if isinstance(x, Repeated) else x[: self.rows]

        return mapped(first, (args, kwargs)) if found else None

    def _spreads(self, out: Any) -> bool:
        """Whether all of an output has the responses first."""
        return all(
            x is None or (isinstance(x, Tensor) and x.dim() > 1 and len(x) == self.rows)
            for x in leaves(out)
        )


def shared(model: nn.Module, perturbed: list[nn.Module]) -> list[nn.Module]:
    """The largest submodules of `model` that hold none of `perturbed`."""
    touched, above, found = set(perturbed), set(), {}
    named = dict(model.named_modules(remove_duplicate=False))
    for name, module in named.items():
        if module in touched:
            parts = name.split(".")
            above.update(named[".".join(parts[:i])] for i in range(len(parts) + 1))

    def look(module: nn.Module) -> None:
        for child in module.children():
            if child in above or isinstance(child, LISTS):
                if child not in touched:
                    look(child)
            else:
                found[child] = None

    look(model)
    return list(found)


def _plain(x: Any) -> bool:
    return isinstance(x, PLAIN) or (isinstance(x, Tensor) and type(x) in (Tensor, Repeated))


def _equal(x: Tensor, y: Tensor) -> bool:
    return bool((x == y).all())


def _same(now: list[Any], before: list[Any]) -> bool:
    return len(now) == len(before) and all(map(_is_same, now, before))


def _is_same(x: Any, y: Any) -> bool:
    if isinstance(x, Tensor) and isinstance(y, Tensor):
        return x.dtype == y.dtype and torch.equal(x, y)
    return not isinstance(x, Tensor) and not isinstance(y, Tensor) and x == y
