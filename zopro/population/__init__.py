"""Populations: the sequences of one forward, each along its own direction."""

from .context import Population
from .family import Family

__all__ = ["Family", "Population"]
