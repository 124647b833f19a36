"""zopro: preference optimisation of language models by forward passes alone.

`ZOPrO`, `StepLog` and `replay` need torch alone. They and the trainers are imported on first use,
so that `import zopro` does not need trl (`pip install zopro[train]` brings what the trainers need),
and so that `zopro --help` does not wait for torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .optimizer import ZOPrO

__all__ = ["CapturedStepLog", "IterationConfig", "StepLog", "ZOPrO", "ZOPrOConfig", "ZOPrOTrainer",
           "ZerothOrderArguments", "ZerothOrderMixin", "iterate", "replay"]  # fmt: skip

_TRAINER = ("ZOPrOConfig", "ZOPrOTrainer", "ZerothOrderArguments", "ZerothOrderMixin")
_LAZY = {
    **dict.fromkeys(_TRAINER, "zopro.trainer"),
    **dict.fromkeys(("CapturedStepLog", "StepLog", "replay"), "zopro.steplog"),
    **dict.fromkeys(("IterationConfig", "iterate"), "zopro.iterations"),
}


def __getattr__(name: str) -> Any:
    if name == "ZOPrO":
        found = importlib.import_module("zopro.optimizer").ZOPrO
        return globals().setdefault(name, found)
    if name not in _LAZY:
        raise AttributeError(f"module 'zopro' has no attribute {name!r}")
    try:
        module = importlib.import_module(_LAZY[name])
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] == "zopro":
            raise  # a module of ours is broken: hiding it behind advice would mislead
        raise ImportError(
            f"zopro.{name} needs {error.name!r}, which is not installed: pip install zopro[train]"
        ) from error
    return getattr(module, name)


def __dir__() -> list[str]:
    return sorted(set(globals()) | {"ZOPrO", *_LAZY})
