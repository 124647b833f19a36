"""How the weights leave theta and come back: arithmetic in place, or an exact copy."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from .directions import Direction, Plan, Term
from .layerwise import LayerwiseWeights
from .prepared import Multiples, Part

logger = logging.getLogger(__name__)
# "auto" copies up to here: the adapters of a model of ten billion parameters stay below it, and a
# model whose weights are larger than this should not pay for them twice.
EXACT_LIMIT_BYTES = 1 << 30
# Where most of an attached model trains, it is copied up to here alone: layer by layer saves little
# there and takes longer (2.7 M fp32 weights on a CPU: 42 ms a step instead of 36).
WHOLE_LIMIT_BYTES = 64 << 20


class _Stored:
    """Weights that are perturbed where they are stored: whatever runs sees them."""

    def evaluation(self, always: bool = False) -> AbstractContextManager[None]:
        """Around forwards; nothing to watch for."""
        return nullcontext()


class InplaceWeights(_Stored):
    """Moves theta by adding and subtracting directions; no memory, each pass rounds once.

    Coming from theta + s z, one pass goes to theta + s' z', to theta, or to the updated theta: a
    restore never costs a pass of its own where something follows it. Where a launch fails, the
    parts of the plan that were written are known, and the way home takes each back from its place.
    """

    policy = "inplace"

    def __init__(self, next_rounding_seed: Callable[[], int], unasked: bool = False) -> None:
        self._next_rounding_seed = next_rounding_seed
        self._warns = unasked  # nobody said "inplace": at the first pass, where it drifts far
        self._plan: Plan | None = None
        self._places: list[Place] = []  # of each part of the plan
        self.trace: list[tuple[Plan, Place]] | None = None  # where passes led, for a step log

    @property
    def away(self) -> bool:
        """Whether the stored weights are not theta."""
        return self._plan is not None

    @torch.no_grad()
    def move(self, plan: Plan, direction: Direction, scale: Tensor) -> None:
        """Stores theta + scale[t] z[t]; scale fp64 [T]. No pass where they are there already."""
        if self._plan is not plan or not all(p.is_at(direction, scale) for p in self._places):
            self._go(plan, Place([(direction, scale)]))

    @torch.no_grad()
    def home(self) -> None:
        """Stores theta again."""
        if self._plan is not None:
            self._go(self._plan, Place())
            self._plan.mark_written()
            self._plan = None

    def update(
        self, plan: Plan, terms: list[Term], decay: Tensor | None, ahead: Plan | None = None
    ) -> None:
        """Stores decay[t] theta[t] + sum of scale[t] z[t], from wherever the weights are: theta
        from now on; decay None: 1. With the next step's plan `ahead`, stores theta + eps z of its
        first direction.
        """
        first = [] if ahead is None else [(ahead.directions[0], ahead.eps)]
        self._go(plan, Place([*terms, *first], decay))
        plan.mark_written()
        self._plan, self._places = ahead, [Place(first) for _ in plan.parts]

    def _go(self, plan: Plan, place: Place) -> None:
        if self._plan is not plan:
            self.home()
            self._plan, self._places = plan, [Place() for _ in plan.parts]
            if self._warns:
                self._warns = False
                _warn_of_drift(plan.tensors)
        seed = self._next_rounding_seed()
        for i, part in enumerate(plan.parts):
            terms, decay = place.seen_from(self._places[i], plan.multiples)
            if terms:
                self._write(plan, part, terms, decay, seed)
            self._places[i] = place
        if self.trace is not None:
            self.trace.append((plan, place))

    def _write(
        self, plan: Plan, part: Part, terms: list[Term], decay: Tensor | None, seed: int | Tensor
    ) -> None:
        """A pass; a replay notes it and makes it later (steplog/gathered.py)."""
        plan.write(part, terms, decay, seed)


@dataclass(eq=False)
class Place:
    """Where stored weights are: decay[t] theta[t] + sum of scale[t] z[t]; at first, theta."""

    terms: list[Term] = field(default_factory=list)
    decay: Tensor | None = None

    def is_at(self, direction: Direction, scale: Tensor) -> bool:
        """Whether this is theta + scale[t] z[t] by these very numbers."""
        if self.decay is not None or len(self.terms) != 1:
            return False
        return self.terms[0][0] is direction and self.terms[0][1] is scale

    def seen_from(self, here: Place, eps: Multiples) -> tuple[list[Term], Tensor | None]:
        """Terms and decay of the pass that leads from `here` to this place."""
        decay = self.decay
        if here.decay is not None:  # a failed update is undone
            decay = (1.0 if decay is None else decay) / here.decay
        # The pass decays what it finds, s z too: decay * s z has to go.
        back = [(d, eps.negative(scale)) for d, scale in here.terms]
        if decay is not None:
            back = [(d, scale * decay) for d, scale in back]
        return _merged([*back, *self.terms], eps), decay


class ExactWeights(_Stored):
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
        self._leave(plan)
        self._write(plan, [(direction, scale)], None)

    @torch.no_grad()
    def home(self) -> None:
        """Stores theta again."""
        if self._plan is not None:
            torch._foreach_copy_(self._plan.tensors, self._copies)
            self._plan = None

    def update(
        self, plan: Plan, terms: list[Term], decay: Tensor | None, ahead: Plan | None = None
    ) -> None:
        """Stores decay[t] theta[t] + sum of scale[t] z[t], from wherever the weights are."""
        assert ahead is None, "what a copy restores is theta"
        self._leave(plan)
        self._write(plan, terms, decay)
        plan.mark_written()
        self._plan = None  # theta from now on

    def _leave(self, plan: Plan) -> None:
        """Stores theta, keeps it, and counts as away: an interrupted write is undone as well."""
        if self._plan is not None:
            torch._foreach_copy_(self._plan.tensors, self._copies)
        else:
            self._save(plan.tensors)
        self._plan = plan

    def _write(self, plan: Plan, terms: list[Term], decay: Tensor | None) -> None:
        seed = self._next_rounding_seed()
        for part in plan.parts:
            plan.write(part, terms, decay, seed)

    def _save(self, tensors: list[Tensor]) -> None:
        # Anew on every departure: whoever changed the weights meanwhile (a loaded checkpoint, a
        # clip) keeps the change.
        if [(c.shape, c.dtype, c.device) for c in self._copies] != [
            (t.shape, t.dtype, t.device) for t in tensors
        ]:
            self._copies = [torch.empty_like(t, requires_grad=False) for t in tensors]
            if (size := _size(tensors)) > EXACT_LIMIT_BYTES:
                logger.warning(
                    "restore='exact' keeps a copy of %.1f GiB of trainable weights: attach(model) "
                    "before the first step makes one layer's memory do", size / 2**30,
                )  # fmt: skip
        torch._foreach_copy_(self._copies, tensors)


def _merged(terms: list[Term], eps: Multiples) -> list[Term]:
    """Terms on the same direction become one: a flip is one coefficient, -2 eps, not two."""
    out: dict[int, Term] = {}
    for direction, scale in terms:
        known = out.get(id(direction))
        out[id(direction)] = (direction, scale if known is None else eps.plus(known[1], scale))
    return list(out.values())


def _size(tensors: list[Tensor]) -> int:
    return sum(t.numel() * t.element_size() for t in tensors)


def _warn_of_drift(tensors: list[Tensor]) -> None:
    short = sorted({str(t.dtype).removeprefix("torch.") for t in tensors if t.element_size() < 4})
    if short:
        logger.warning(
            "restore='auto' is in place for %.1f GiB of weights, where in %s the passes' roundings "
            "add up (docs/restore.md): attach(model) makes it exact at one layer's memory, "
            "restore='inplace' says that it is meant", _size(tensors) / 2**30, " and ".join(short),
        )  # fmt: skip


def choose_policy(restore: str, tensors: list[Tensor], model: nn.Module | None = None) -> str:
    """The policy for `restore`, "auto" or "exact". An attached `model` goes layer by layer above
    EXACT_LIMIT_BYTES of trainable weights, and above WHOLE_LIMIT_BYTES where they are most of its
    own, as they are of no adapter. Else they are copied; above EXACT_LIMIT_BYTES without a model
    "auto" is in place, and "exact" copies all the same."""
    if restore not in ("auto", "exact"):
        return restore
    size = _size(tensors)
    if model is not None and size > WHOLE_LIMIT_BYTES:
        whole = 2 * size > _size(list(model.parameters()))
        if whole or size > EXACT_LIMIT_BYTES:
            return "layerwise"
    return "exact" if size <= EXACT_LIMIT_BYTES or restore == "exact" else "inplace"


def weights_for(
    policy: str,
    next_rounding_seed: Callable[[], int | Tensor],
    model: nn.Module | None,
    held: Iterable[Tensor],
    unasked: bool = False,
) -> Weights:
    """Weights under a policy of `choose_policy`; next_rounding_seed gives each pass its own.
    unasked: "auto" chose it; in place in bf16 or fp16 it warns once."""
    if policy == "layerwise":
        return LayerwiseWeights(next_rounding_seed, model, held)
    if policy == "exact":
        return ExactWeights(next_rounding_seed)
    return InplaceWeights(next_rounding_seed, unasked)


Weights = InplaceWeights | ExactWeights | LayerwiseWeights
