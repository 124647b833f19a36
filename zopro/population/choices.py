"""How each layer of a model is perturbed, and what the update along the directions is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from ..directions import Plan
from ..engine import Engine
from . import layers as kinds
from .family import Family
from .members import Members
from .refusals import lora_factors, owners
from .walk import FamilyWalk, LowRankWalk, Walk


def layers_of(
    model: nn.Module,
    plan: Plan,
    rank: int | None,
    members: Callable[[str, Tensor], Members],
    family: Family | None,
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
        layer = kind(name, module, sources, members, rank or 1)
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


def walk_of(
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
