"""How the weights leave theta and come back: arithmetic in place, or an exact copy."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .directions import Direction, Plan, Term

# "auto" copies up to here: the adapters of a model of ten billion parameters stay below it, and a
# model whose weights are larger than this should not pay for them twice.
EXACT_LIMIT_BYTES = 1 << 30


class InplaceWeights:
    """Moves theta by adding and subtracting directions; no memory, each pass rounds once.

    Coming from theta + s z, one pass goes to theta + s' z', to theta, or to the updated theta: a
    restore never costs a pass of its own where something follows it.
    """

    policy = "inplace"

    def __init__(self, next_rounding_seed: Callable[[], int]) -> None:
        self._next_rounding_seed = next_rounding_seed
        self._away: tuple[Plan, Term] | None = None

    @property
    def away(self) -> bool:
        """Whether the stored weights are a perturbed theta."""
        return self._away is not None

    @torch.no_grad()
    def move(self, plan: Plan, direction: Direction, scale: Tensor) -> None:
        """Stores theta + scale[t] z[t]; scale fp64 [T]."""
        terms = _merged([*self._return_terms(None), (direction, scale)])
        self._away = self._write_then(plan, terms, None, (plan, (direction, scale)))

    @torch.no_grad()
    def home(self) -> None:
        """Stores theta again."""
        if self._away is not None:
            plan = self._away[0]
            self._away = self._write_then(plan, self._return_terms(None), None, None)

    def update(self, plan: Plan, terms: list[Term], decay: Tensor) -> None:
        """Stores decay[t] theta[t] + sum of scale[t] z[t], from wherever the weights are."""
        # The decay is for theta, the stored weights are theta + s z: s z is decayed with them, so
        # decay * s z has to go.
        terms = _merged([*self._return_terms(decay), *terms])
        self._away = self._write_then(plan, terms, decay, None)

    def _return_terms(self, decay: Tensor | None) -> list[Term]:
        if self._away is None:
            return []
        _, (direction, scale) = self._away
        return [(direction, -scale if decay is None else -scale * decay)]

    def _write_then(self, plan, terms, decay, place):
        plan.write(terms, decay, self._next_rounding_seed())
        return place


class ExactWeights:
    """Keeps a copy of theta while the weights are away from it: they return to the very bits."""

    policy = "exact"

    def __init__(self, next_rounding_seed: Callable[[], int]) -> None:
        self._next_rounding_seed = next_rounding_seed
        self._copies: list[Tensor] = []
        self._plan: Plan | None = None

    @property
    def away(self) -> bool:
        """Whether the stored weights are a perturbed theta."""
        return self._plan is not None

    @torch.no_grad()
    def move(self, plan: Plan, direction: Direction, scale: Tensor) -> None:
        """Stores theta + scale[t] z[t]; scale fp64 [T]."""
        if self._plan is None:
            self._save(plan.tensors)
            self._plan = plan  # before the first write: an interrupted one is undone as well
        else:
            torch._foreach_copy_(plan.tensors, self._copies)
        plan.write([(direction, scale)], None, self._next_rounding_seed())

    @torch.no_grad()
    def home(self) -> None:
        """Stores theta again."""
        if self._plan is not None:
            torch._foreach_copy_(self._plan.tensors, self._copies)
            self._plan = None

    def update(self, plan: Plan, terms: list[Term], decay: Tensor) -> None:
        """Stores decay[t] theta[t] + sum of scale[t] z[t], from wherever the weights are."""
        self.home()
        plan.write(terms, decay, self._next_rounding_seed())

    def _save(self, tensors: list[Tensor]) -> None:
        # Anew on every departure: whoever changed the weights meanwhile (a loaded checkpoint, a
        # clip) keeps the change.
        if [(c.shape, c.dtype, c.device) for c in self._copies] != [
            (t.shape, t.dtype, t.device) for t in tensors
        ]:
            self._copies = [torch.empty_like(t, requires_grad=False) for t in tensors]
        torch._foreach_copy_(self._copies, tensors)


def _merged(terms: list[Term]) -> list[Term]:
    """Terms on the same direction become one: a flip is one coefficient, -2 eps, not two."""
    out: dict[int, Term] = {}
    for direction, scale in terms:
        known = out.get(id(direction))
        out[id(direction)] = (direction, scale if known is None else known[1] + scale)
    return list(out.values())


def choose_policy(restore: str, tensors: list[Tensor]) -> type[InplaceWeights | ExactWeights]:
    """The class for `restore`; "auto" is exact up to EXACT_LIMIT_BYTES of trainable weights."""
    if restore == "auto":
        size = sum(t.numel() * t.element_size() for t in tensors)
        restore = "exact" if size <= EXACT_LIMIT_BYTES else "inplace"
    return {"exact": ExactWeights, "inplace": InplaceWeights}[restore]
