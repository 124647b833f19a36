"""Which modules own the trainable parameters, and what cannot be perturbed by sequence."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from ..directions import Plan

QUANTISED = ("bitsandbytes", "gptq", "awq", "aqlm", "hqq", "eetq", "torchao", "quanto", "bnb")


def check_model(model: Any) -> nn.Module:
    """A plain module whose forward is the same for both signs of a perturbation."""
    if not isinstance(model, nn.Module):
        raise ValueError(
            "population: no model says which layers own the parameters: call attach(model) first, "
            "or give model="
        )
    for name, module in model.named_modules():
        label = f"model has {name or 'itself'!r} ({type(module).__name__})"
        wrapped = isinstance(module, nn.DataParallel | torch.jit.ScriptModule)
        compiled = "_orig_mod" in module._modules or getattr(module, "_compiled_call_impl", None)
        if wrapped or compiled:
            raise ValueError(f"{label}, compiled or replicated: give the plain model")
        if module.training and _drops(module):
            raise ValueError(f"{label} with dropout switched on: call model.eval() first")
        if getattr(module, "gradient_checkpointing", False) is True:
            raise ValueError(
                f"{label} with gradient checkpointing, which runs layers again: call "
                "model.gradient_checkpointing_disable()"
            )
        if hasattr(module, "lora_A") and hasattr(module, "base_layer"):
            _check_lora(label, module)
    return model


def _drops(module: nn.Module) -> bool:
    if isinstance(module, nn.modules.dropout._DropoutNd):
        return module.p > 0
    shares = (getattr(module, name, 0) for name in ("attention_dropout", "dropout"))
    return any(isinstance(p, float) and p > 0 for p in shares)


def _check_lora(label: str, module: Any) -> None:
    """PEFT's layers by their attributes: the optimizer does not need peft."""
    base = module.get_base_layer()
    kinds = [type(x).__module__ + "." + type(x).__name__ for x in (module, base)]
    if any(word in kind.lower() for kind in kinds for word in (*QUANTISED, "4bit", "8bit")):
        raise ValueError(
            f"{label} over a quantised layer ({type(base).__name__}): populations need adapters "
            "over plain weights, so load the base model without quantisation"
        )
    if getattr(module, "merged", False):
        raise ValueError(f"{label} merged into its base weight: call unmerge_adapter() first")
    if getattr(module, "disable_adapters", False):
        raise ValueError(f"{label} with its adapters disabled: enable them first")
    if getattr(module, "lora_variant", None):
        kind = type(next(iter(module.lora_variant.values()))).__name__
        raise ValueError(
            f"{label} of a variant of LoRA ({kind}) that reads the adapter's weights itself: train "
            "plain LoRA"
        )


def owners(model: nn.Module, plan: Plan) -> Iterator[tuple[str, nn.Module, dict[str, int]]]:
    """(name, module, rows of the plan by the parameters' names) of each owner of parameters.

    Raises ValueError for a parameter that no module of `model` owns, or several do.
    """
    rows = {p: t for t, p in enumerate(plan.tensors)}
    owner: dict[Tensor, str] = {}
    found = []
    for name, module in model.named_modules():
        own = {n: p for n, p in module._parameters.items() if p is not None and p in rows}
        for n, p in own.items():
            label = f"{name}.{n}" if name else n
            if p in owner:
                raise ValueError(
                    f"{owner[p]} and {label} are one parameter: tied weights cannot be perturbed "
                    "by sequence, so leave them out of training"
                )
            owner[p] = label
        if own:
            found.append((name, module, {n: rows[p] for n, p in own.items()}))
    lost = [t for p, t in rows.items() if p not in owner]
    if lost:
        raise ValueError(
            f"trainable parameter {lost[0]} of shape {tuple(plan.tensors[lost[0]].shape)} belongs "
            "to no module of the model: give the model that owns what the optimizer trains"
        )
    yield from found


def lora_factors(model: nn.Module) -> set[nn.Module]:
    """The modules that hold LoRA's factors."""
    return {
        factor
        for module in model.modules()
        if hasattr(module, "lora_A") and hasattr(module, "base_layer")
        for held in (module.lora_A, module.lora_B)
        for factor in held.modules()
    }


def guard_caches(model: nn.Module) -> list[Any]:
    """Hooks that refuse keys and values which other weights have made."""
    hooks = []
    for module in model.modules():
        if not hasattr(module, "get_input_embeddings"):
            continue
        signature = inspect.signature(module.forward)

        def guard(module: nn.Module, args: tuple, kwargs: dict, signature: Any = signature) -> None:
            try:
                given = signature.bind_partial(*args, **kwargs).arguments
            except TypeError:
                return  # the call itself says what is wrong
            past = given.get("past_key_values", given.get("kwargs", {}).get("past_key_values"))
            length = getattr(past, "get_seq_length", lambda: len(past) if past else 0)()
            if past is not None and length:
                raise ValueError(
                    f"past_key_values holds {length} positions that other weights made: in a "
                    "population each sequence has its own, so give whole sequences and no cache"
                )

        hooks.append(module.register_forward_pre_hook(guard, with_kwargs=True))
    return hooks
