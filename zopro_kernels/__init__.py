"""Noise kernels of zopro: seeded directions, regenerated and applied in place, on four backends."""

from .dispatch import backends, default_backend
from .operations import add_noise_, noise
from .reduction import noise_dots
from .reference_law import LAW

__all__ = ["LAW", "add_noise_", "backends", "default_backend", "noise", "noise_dots"]
