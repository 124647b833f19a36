"""A training step's directions together: few forwards over copies of the batch, TRL's own loss."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from zopro.population import Family, Population

from .shortened import Shortened, in_eval, quiet, single

SCORED = "_get_per_token_logps_and_entropies"  # TRL's: what its RLOO and GRPO losses are made of
# GRPO's losses of a batch that are the mean of those of its responses; None: RLOO's, which is.
MEANS = (None, "grpo", "dr_grpo")


@dataclass(eq=False)
class Copies:
    """A forward of some of a population's blocks, and which of its rows the loss asks for next."""

    pop: Population | None
    rows: slice = field(default_factory=lambda: slice(0))
    found: tuple | None = None  # of TRL's method, for all copies

    def cut(self) -> tuple:
        return tuple(x[self.rows] if isinstance(x, Tensor) and x.dim() else x for x in self.found)


class Populated:
    """Before a trainer whose loss comes from `_get_per_token_logps_and_entropies`.

    The forward of the copies is made where the loss asks for its log-probabilities; then the
    parent's `compute_loss` is called for each direction and sign and gets theirs, so that each
    loss is the parent's to the letter.
    """

    _copies: Copies | None = None
    _spread: dict[str, float] | None = None
    _updates: Sequence | None = None
    _family: Family | None = None

    def set_family(self, updates: Sequence[Mapping[str, Tensor] | Sequence[Tensor]]) -> None:
        """The population's directions are an orthonormal basis of `updates`, earlier updates of the
        policy, each as `set_targets` takes one: the steps follow the gradient inside their span.

        As many as `zo_population`; without targets and without a step log (`zo_log_steps=False`),
        which does not know families. ValueError otherwise. Call it again before a resumed `train`.
        """
        updates = list(updates)
        if len(updates) != self.args.zo_population or self.args.zo_log_steps:
            raise ValueError(
                f"set_family of {len(updates)} updates with zo_population="
                f"{self.args.zo_population} and zo_log_steps={self.args.zo_log_steps}: give "
                f"zo_population={len(updates)} and zo_log_steps=False"
            )
        self._updates, self._family = updates, None

    def check_population(self) -> None:
        """ValueError where `zo_population` is set and this trainer's loss does not allow it."""
        size = getattr(self.args, "zo_population", None)
        if size is None:
            return
        label, reason = f"zo_population={size}", None
        if not hasattr(super(), SCORED) or not getattr(self, "scores_rollouts", True):
            reason = f"{type(self).__name__}'s loss is not of rollouts' log-probabilities"
        elif getattr(self, "aux_loss_enabled", False):
            reason = "the auxiliary loss of a mixture of experts is of a whole batch"
        elif getattr(self, "use_liger_kernel", False):
            reason = "use_liger_kernel=True computes the loss without log-probabilities"
        elif self.args.zo_population_mapping == "per_response":
            label += " with zo_population_mapping='per_response'"
            loss_type = getattr(self.args, "loss_type", None)
            if loss_type not in MEANS:
                reason = f"loss_type={loss_type!r} is no mean over responses"
            elif self.args.world_size > 1:
                reason = "several ranks average the losses of each direction"
        if reason is not None:
            raise ValueError(f"{label} is refused: {reason}; leave it out (zo_num_directions)")

    def scored_together(self) -> bool:
        """Whether the directions of this estimate are: not while eps="auto" is being found."""
        waits = self.zopro._pending
        alone = waits is not None and waits.accumulates
        known = all(group["eps"] != "auto" for group in self.zopro.param_groups)
        return self.args.zo_population is not None and known and not alone

    def population_estimate(
        self, evaluate: Callable[[dict], Tensor], model: nn.Module, inputs: dict[str, Any]
    ) -> Tensor:
        """An estimate from the losses `evaluate(inputs)`, 0-dim, of copies; their mean, 0-dim."""
        per = self.args.zo_population_mapping == "per_response"
        rows = len(inputs["completion_ids"])
        size = rows if per else self.zopro._num_directions
        if self._updates is not None:
            self._family, self._updates = self.zopro.family(self._updates), None
        at_once = max(1, self.args.zo_population_sequences // rows)
        mapping = "per_response" if per else "all"
        due = (self.state.global_step + 1) % max(1, int(self.state.logging_steps)) == 0
        due = due and not per and self.args.world_size == 1 and self._family is None
        losses, scored = [], []
        with contextlib.ExitStack() as stack:
            with in_eval(model):
                pop = stack.enter_context(
                    self.zopro.population(size, mapping, model=model, family=self._family)
                )
            for first in range(0, pop.blocks, at_once):
                count = min(at_once, pop.blocks - first)
                pop.part(first, count)
                losses.append(self._part(pop, count, rows, per, evaluate, inputs, scored))
                pop.losses(losses[-1])
        if due:
            eps = self.zopro.param_groups[0]["eps"]
            slopes = self._of_responses(torch.cat(scored), rows, pop.two_sided, evaluate, inputs)
            self._spread = spread_of(slopes, eps)
        return torch.cat(losses).mean()

    def _part(
        self, pop: Population, count: int, rows: int, per: bool,
        evaluate: Callable[..., Tensor], inputs: dict[str, Any], scored: list[Tensor],
    ) -> Tensor:  # fmt: skip
        """The losses of the next `count` blocks: [count rows], of a block's rows all the same
        unless each has a direction of its own."""
        copies, losses = Copies(pop), []
        self._copies = copies
        try:
            for first in range(0, count * rows, rows):
                copies.rows = slice(first, first + rows)
                loss = evaluate(inputs)
                if copies.found is None:
                    raise ValueError(
                        f"zo_population={self.args.zo_population}: the loss of "
                        f"{type(self).__name__} did not ask for log-probabilities; leave it out"
                    )
                if not per:
                    losses.append(loss.reshape(1).expand(rows))
                    continue
                with quiet(self._metrics):
                    for b in range(rows):
                        copies.rows = slice(first + b, first + b + 1)
                        losses.append(evaluate(single(inputs, b, rows)).reshape(1))
        finally:
            self._copies = None
        scored.append(copies.found[0])
        return torch.cat(losses)

    def _of_responses(
        self, logps: Tensor, rows: int, two_sided: bool,
        evaluate: Callable[..., Tensor], inputs: dict[str, Any],
    ) -> Tensor:  # fmt: skip
        """Each response's part of the change of the loss per eps z_k: [K, rows].

        To first order: the loss's derivative by the log-probabilities, at theta, times their own
        change, from logps [n rows, L] of all blocks. No graph reaches the model.
        """
        blocks = logps.view(-1, rows, logps.shape[-1])
        if two_sided:
            change, middle = (blocks[0::2] - blocks[1::2]) / 2.0, blocks.mean(0)
        else:
            change, middle = blocks[1:] - blocks[0], blocks[0]
        middle = middle.clone().requires_grad_()
        entropies = torch.zeros_like(middle)
        self._copies = Copies(None, slice(0, rows), (middle, entropies, None))
        try:
            with quiet(self._metrics):
                (slope,) = torch.autograd.grad(evaluate(inputs, True), middle)
        finally:
            self._copies = None
        return (change * slope).sum(-1).double()

    def spread(self) -> dict[str, float]:
        """What the last estimate says of itself, once: see `spread_of`."""
        found, self._spread = self._spread or {}, None
        return found

    def _get_per_token_logps_and_entropies(
        self, model: Any, input_ids: Tensor, attention_mask: Tensor, logits_to_keep: int,
        *args: Any, **kwargs: Any,
    ) -> tuple:  # fmt: skip
        """The parent's; in a population's step of all copies at once, of which it gives a part."""
        parent, copies = getattr(super(), SCORED), self._copies
        if copies is None:
            return parent(model, input_ids, attention_mask, logits_to_keep, *args, **kwargs)
        if copies.found is None:
            given = [name for name, x in kwargs.items() if isinstance(x, Tensor | list)]
            if given:
                raise ValueError(
                    f"zo_population={self.args.zo_population} is refused for inputs with "
                    f"{given[0]}: copies are made of texts alone; leave it out (zo_num_directions)"
                )
            batch = copies.pop.copies({"ids": input_ids, "mask": attention_mask})
            short = Shortened(model, logits_to_keep)
            copies.found = parent(
                short, batch["ids"], batch["mask"], logits_to_keep, *args, **kwargs
            )
        return copies.cut()


def spread_of(slopes: Tensor, eps: float) -> dict[str, float]:
    """Of a population's step, from each response's part of each direction's slope, [K, B].

    zo_population: K. zo_rho: ||sum g_b|| / sqrt(sum ||g_b||^2), between about 1 (responses without
    anything in common) and sqrt(B): the root of sum_k (sum_b s_kb)^2 / sum_k sum_b s_kb^2. For
    plain directions both sums are unbiased for theirs (E (z . g)^2 = ||g||^2); the root of their
    quotient has a standard error of about rho / sqrt(2 K) and a bias of the order of its square.
    Aimed directions see the responses along what they are aimed at. zo_slope_error: root mean
    square over the directions of the standard error over the responses of a slope, in the units of
    grad_norm: a grad_norm below it is a batch's noise.
    """
    k, b = slopes.shape
    within = slopes.square().sum().item()
    logs = {"zo_population": float(k)}
    if within > 0.0:
        logs["zo_rho"] = (slopes.sum(1).square().sum().item() / within) ** 0.5
    if b > 1:
        each = slopes * b
        logs["zo_slope_error"] = (each.var(1) / b).mean().sqrt().item() / eps
    return logs
