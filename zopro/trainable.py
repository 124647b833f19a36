"""Which tensors of an optimizer's groups train, and their indices in the noise law."""

from __future__ import annotations

from dataclasses import dataclass
from operator import attrgetter, is_
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

from . import checks

_requires_grad = attrgetter("requires_grad")


@dataclass(eq=False)
class Members:
    """The parameters that require grad, in order; their indices in the noise law; the positions of
    their groups. Another object as soon as one of these is another."""

    tensors: list[Tensor]
    indices: list[int]
    group_of: list[int]


@dataclass(eq=False)
class _Found:
    """Members, and what they were found in."""

    members: Members
    flat: list[Tensor]
    sizes: list[int]  # of the groups
    needed: list[bool]
    indices: dict[Tensor, int]

    def still(self, flat: list, sizes: list, needed: list, indices: dict) -> bool:
        if self.indices is not indices or self.sizes != sizes or self.needed != needed:
            return False
        return len(flat) == len(self.flat) and all(map(is_, flat, self.flat))


class Trainable(Optimizer):
    """Groups of parameters; those that require grad have an index, which never changes."""

    def __init__(self, params: list, defaults: dict[str, Any]) -> None:
        self._indices: dict[Tensor, int] = {}
        self._found: _Found | None = None
        super().__init__(params, defaults)

    def _index_trainable(self) -> None:
        """Gives trainable parameters that have none the next indices; an index never changes."""
        fresh: dict[Tensor, str] = {}
        for g, group in enumerate(self.param_groups):
            for i, p in enumerate(group["params"]):
                if p.requires_grad and p not in self._indices and p not in fresh:
                    fresh[p] = f"parameter {i} of group {g}"
                    checks.parameter(fresh[p], p)
        if fresh:
            checks.no_overlap([*self._indices, *fresh])
            self._indices |= {p: len(self._indices) + n for n, p in enumerate(fresh)}

    def _members(self) -> list[tuple[Tensor, str | None, int]]:
        """(parameter, name, group) of all that require grad now, in order."""
        self._index_trainable()
        found = []
        for g, group in enumerate(self.param_groups):
            names = group.get("param_names", [None] * len(group["params"]))
            found += [(p, n, g) for p, n in zip(group["params"], names) if p.requires_grad]
        if not found:
            raise RuntimeError("no parameter requires grad any more: nothing to train")
        return found

    def _trainable(self) -> Members:
        """As `_members`, without names; looked for again only where groups, their parameters, what
        requires grad or the indices are others than they were: the very object as long as not."""
        flat = self._flat()
        sizes = [len(group["params"]) for group in self.param_groups]
        needed = list(map(_requires_grad, flat))
        found = self._found
        if found is None or not found.still(flat, sizes, needed, self._indices):
            triples = self._members()
            members = Members(
                tensors=[p for p, _, _ in triples],
                indices=[self._indices[p] for p, _, _ in triples],
                group_of=[g for _, _, g in triples],
            )
            self._found = found = _Found(members, flat, sizes, needed, self._indices)
        return found.members

    def _flat(self) -> list[Tensor]:
        return [p for group in self.param_groups for p in group["params"]]
