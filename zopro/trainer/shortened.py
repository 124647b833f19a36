"""Around a population's forward: its last positions alone, one response of a batch, no metrics."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn

LAST_NORMS = ("norm", "ln_f", "final_layernorm", "final_layer_norm")


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
