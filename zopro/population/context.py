"""The block in which each sequence of a batch runs with its own direction's weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ..directions import Plan
from ..engine import Engine
from . import layers as kinds
from .estimators import Tally, Together
from .family import Family
from .members import Members, rule_of
from .refusals import check_model, guard_caches, lora_factors, owners
from .walk import FamilyWalk, LowRankWalk, Walk


class Population:
    """What `ZOPrO.population` gives: the directions' losses are collected here."""

    def __init__(self, plan: Plan, size: int, two_sided: bool, family: Family | None) -> None:
        self.size, self.two_sided = size, two_sided
        self.tally = Tally(size)
        self._plan, self._family, self._rule, self._named = plan, family, None, None
        self._members: Members | None = None
        self._layers: list[kinds.Layer] = []

    def map(self, mapping: Any = "all", signs: Any = 1) -> None:
        """The mapping of the forwards from now on, as in `population`."""
        if any(layer.ran for layer in self._layers):
            raise RuntimeError("map: a forward has run whose losses are missing: call losses first")
        self._rule = rule_of(mapping, signs, self.size, self.two_sided)
        self._named = mapping if isinstance(mapping, str) or mapping is None else ""
        self._members = None

    def copies(self, batch: Any) -> Any:
        """`batch` (a tensor [B, ...], or a mapping of such; other values stay) as often as the
        mapping "all" or "per_response" needs it: [n B, ...]."""
        if self._named == "":
            raise RuntimeError("copies: the mapping was given, so the batch is as it says already")
        blocks = 2
        if self._named != "per_response":
            blocks = 2 * self.size if self.two_sided else self.size + 1
        if isinstance(batch, Mapping):
            return {key: self.copies(x) if isinstance(x, Tensor) else x for key, x in batch.items()}
        return batch.repeat(blocks, *[1] * (batch.dim() - 1))

    def losses(self, values: Tensor) -> None:
        """Takes the losses of the sequences of the last forward: [S], real, one a sequence.

        May be called for several forwards, of other sequences each (shards, or micro-batches); each
        direction's losses are averaged. Raises ValueError for another count, and where a layer
        whose parameters train did not run.
        """
        if not isinstance(values, Tensor) or values.dim() != 1 or values.is_complex():
            what = tuple(values.shape) if isinstance(values, Tensor) else type(values).__name__
            raise TypeError(f"losses got {what}: give a real tensor [S], one loss a sequence")
        if self._members is None:
            raise ValueError("losses before a forward: run the model inside the population's block")
        if len(values) != self._members.sequences:
            raise ValueError(
                f"losses has {len(values)} entries where the batch had {self._members.sequences} "
                "sequences: give one for each"
            )
        still = [layer.name for layer in self._layers if not layer.ran]
        if still:
            raise ValueError(
                f"{still[0]} holds trainable parameters but did not run by its own forward: what "
                "reads its weights elsewhere (a fused layer, say) cannot be perturbed by sequence"
            )
        self.tally.add(values, self._members)
        for layer in self._layers:
            layer.ran = False

    def members(self, name: str, x: Tensor) -> Members:
        """Of the batch that layer `name` sees, x [S, ...]; made at the first layer that runs."""
        sequences = len(x) if x.dim() > 1 else 0
        known = self._members
        if known is not None and known.sequences == sequences:
            return known
        if known is not None and any(layer.ran for layer in self._layers):
            raise ValueError(
                f"{name} gets a batch of {sequences} where the forward's has {known.sequences} "
                "sequences: layers that reshape or route the batch cannot be perturbed by sequence"
            )
        streams, signs = self._rule(sequences)
        self._members = Members.of(self._plan, streams, signs, self._family)
        return self._members


def layers_of(
    model: nn.Module, plan: Plan, rank: int | None, pop: Population, family: Family | None
) -> list[kinds.Layer]:
    """The layers to replace; ValueError, which names them, for those that cannot be."""
    factors, memory, refused, found = lora_factors(model), kinds.Memory(), [], []
    for name, module, rows in owners(model, plan):
        kind = _kind(module, rows, None if module in factors else rank)
        if kind is None:
            refused.append(f"{name} ({type(module).__name__})")
            continue
        sources = {
            n: kinds.Source(plan, t, memory, None if family is None else family.basis[t])
            for n, t in rows.items()
        }
        layer = kind(name, module, sources, pop.members, rank or 1)
        if kind is kinds.LowRankLayer:
            weight = sources["weight"]
            weight.zeros = weight.parameter.new_zeros(sum(weight.parameter.shape) * rank).float()
        found.append(layer)
    if refused:
        raise ValueError(
            f"population cannot perturb {', '.join(refused[:3])}"
            + (f" and {len(refused) - 3} more" if len(refused) > 3 else "")
            + " by sequence: train LoRA, nn.Linear, LayerNorm or RMSNorm alone, or use estimate()"
        )
    return found


def _kind(module: nn.Module, rows: dict[str, int], rank: int | None) -> type[kinds.Layer] | None:
    """How the module is perturbed; None where it cannot be. rank: None for full noise."""
    if type(module).forward is nn.Linear.forward:
        outs, ins = module.weight.shape
        low = rank is not None and "weight" in rows and rank * (outs + ins) < outs * ins
        return kinds.LowRankLayer if low else kinds.LinearLayer
    if isinstance(module, nn.LayerNorm | nn.RMSNorm):
        return kinds.NormLayer if len(module.normalized_shape) == 1 else None
    own = type(module).__name__.endswith("RMSNorm") and list(rows) == ["weight"]
    return kinds.OwnNormLayer if own and module.weight.dim() == 1 else None


def _walk(
    opt: Engine, plan: Plan, found: list[kinds.Layer], options: dict[str, Any]
) -> Walk | None:
    """The update, where the pass with noise is not it. ValueError for low-rank directions that
    should have more in them than noise, or be logged."""
    low = [layer for layer in found if isinstance(layer, kinds.LowRankLayer)]
    if low and (plan.prev is not None or options["family"] is not None):
        raise ValueError(
            f"population with targets or a family needs full directions, but {low[0].name} is "
            "large: give rank=None (copies of whole weights are made), or train adapters"
        )
    if low and opt._step_log is not None:
        raise ValueError(
            f"population along low-rank directions (rank={options['rank']}) with a step log, which "
            "knows full ones alone: give rank=None, or close() the log"
        )
    if options["family"] is not None:
        return FamilyWalk(options["family"])
    return (
        LowRankWalk([layer.sources["weight"].t for layer in low], options["rank"]) if low else None
    )


@contextmanager
def opened(
    opt: Engine, plan: Plan, size: int, mapping: Any, signs: Any, options: dict[str, Any]
) -> Iterator[Population]:
    """The block itself: forwards replaced, then as they were; on success `opt` has its estimate."""
    two_sided, family = options["estimator"] == "two_sided", options["family"]
    pop = Population(plan, size, two_sided, family)
    pop.map(mapping, signs)
    model = check_model(options["model"])
    found = layers_of(model, plan, options["rank"], pop, family)
    walk = _walk(opt, plan, found, options)
    pop._layers = found
    hooks: list[Any] = []
    opt._busy = "a population"
    try:
        hooks = guard_caches(model)
        for layer in found:
            layer.replace()
        with torch.no_grad():
            yield pop
    finally:
        opt._busy = None
        for layer in reversed(found):
            if layer.original is not None:
                layer.restore()
        for hook in hooks:
            hook.remove()
    if pop.tally.sums is not None:
        eps = opt.param_groups[plan.group_of[0]]["eps"]
        scaled = options["scale"] == "std"
        opt._pending = Together.gathered(pop.tally, plan, two_sided, scaled, eps, walk)
        opt._plan = plan
