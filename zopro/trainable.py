"""Which tensors of an optimizer's groups train, and their indices in the noise law."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.optim import Optimizer

from . import checks


class Trainable(Optimizer):
    """Groups of parameters; those that require grad have an index, which never changes."""

    def __init__(self, params: list, defaults: dict[str, Any]) -> None:
        self._indices: dict[Tensor, int] = {}
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

    def _flat(self) -> list[Tensor]:
        return [p for group in self.param_groups for p in group["params"]]
