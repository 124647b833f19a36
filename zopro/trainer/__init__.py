"""Zeroth-order training with Hugging Face's trainers."""

from .config import ZerothOrderArguments, ZOPrOConfig
from .mixin import ZerothOrderMixin
from .rloo import ZOPrOTrainer

__all__ = ["ZOPrOConfig", "ZOPrOTrainer", "ZerothOrderArguments", "ZerothOrderMixin"]
