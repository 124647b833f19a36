"""Zeroth-order training with Hugging Face's trainers."""

from .config import ZerothOrderArguments, ZOPrOConfig
from .mixin import ZerothOrderMixin
from .resumable import Resumable
from .rloo import ZOPrOTrainer

__all__ = ["Resumable", "ZOPrOConfig", "ZOPrOTrainer", "ZerothOrderArguments", "ZerothOrderMixin"]
