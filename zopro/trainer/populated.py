"""A training step's directions together: few forwards over copies of the batch, TRL's own loss."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from zopro.population import Population

SCORED = "_get_per_token_logps_and_entropies"  # TRL's: what its RLOO and GRPO losses are made of
LAST_NORMS = ("norm", "ln_f", "final_layernorm", "final_layer_norm")
# GRPO's losses of a batch that are the mean of those of its responses; None: RLOO's, which is.
MEANS = (None, "grpo", "dr_grpo")


@dataclass(eq=False)
class Copies:
    """A forward of some of a population's blocks, and which of its rows the loss asks for next."""

    pop: Population
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
        at_once = max(1, self.args.zo_population_sequences // rows)
        mapping = "per_response" if per else "all"
        losses = []
        with contextlib.ExitStack() as stack:
            with in_eval(model):
                pop = stack.enter_context(self.zopro.population(size, mapping, model=model))
            for first in range(0, pop.blocks, at_once):
                count = min(at_once, pop.blocks - first)
                pop.part(first, count)
                losses.append(self._part(pop, count, rows, per, evaluate, inputs))
                pop.losses(losses[-1])
        return torch.cat(losses).mean()

    def _part(
        self, pop: Population, count: int, rows: int, per: bool,
        evaluate: Callable[[dict], Tensor], inputs: dict[str, Any],
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
        return torch.cat(losses)

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


class Shortened:
    """`model` whose last norm and fused head see the last positions alone.

    TRL's head, where it has no Triton, computes the logits of prompts too and drops them; what is
    behind the last norm looks at each position by itself.
    """

    def __init__(self, model: Any, keep: int) -> None:
        self._model, self._keep = model, keep

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def __call__(self, **kwargs: Any) -> Any:
        labels, norm = kwargs.get("labels"), last_norm(self._model)
        if norm is None or labels is None or not kwargs.get("fused_lm_head"):
            return self._model(**kwargs)
        length = min(self._keep + 1, labels.shape[1])
        start = labels.shape[1] - length

        def short(module: nn.Module, args: tuple) -> tuple:
            return (args[0].narrow(1, start, length), *args[1:])

        hook = norm.register_forward_pre_hook(short, prepend=True)
        try:
            return self._model(**{**kwargs, "labels": labels[:, start:]})
        finally:
            hook.remove()


def last_norm(model: Any) -> nn.Module | None:
    """The norm behind the last layer: the last submodule of the backbone that has parameters."""
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    backbone = getattr(inner, getattr(inner, "base_model_prefix", "") or " ", None)
    if not isinstance(backbone, nn.Module):
        return None
    owning = [(n, m) for n, m in backbone.named_children() if any(True for _ in m.parameters())]
    return owning[-1][1] if owning and owning[-1][0] in LAST_NORMS else None


def single(inputs: dict[str, Any], b: int, rows: int) -> dict[str, Any]:
    """Response b of a batch of `rows`."""
    return {
        n: x[b : b + 1] if isinstance(x, Tensor) and x.dim() and len(x) == rows else x
        for n, x in inputs.items()
    }


@contextlib.contextmanager
def in_eval(model: nn.Module) -> Iterator[None]:
    """The model's own flag off, as its forwards have it."""
    training, model.training = model.training, False
    try:
        yield
    finally:
        model.training = training


@contextlib.contextmanager
def quiet(metrics: dict[str, dict[str, list]]) -> Iterator[None]:
    """What is logged inside is forgotten."""
    lengths = {mode: {n: len(v) for n, v in named.items()} for mode, named in metrics.items()}
    try:
        yield
    finally:
        for mode, named in metrics.items():
            for name in list(named):
                del named[name][lengths.get(mode, {}).get(name, 0) :]
                if not named[name]:
                    del named[name]
