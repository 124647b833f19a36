"""Noise kernels of zopro: seeded directions, regenerated and applied in place, on four backends."""

from .arguments import with_live
from .copies import Copies
from .dispatch import backends, default_backend
from .operations import Record, add_noise_, add_noise_sequence_, noise
from .passes import integers
from .perturbed import perturbed, perturbed_into
from .perturbed_linear import linear_of, perturbed_linear
from .reduction import noise_dots
from .reference_law import LAW
from .room import Room
from .sketch import sketch
from .stored import Int8Blocks, quantise
from .tensor_set import TensorSet
from .transfer import common_device, moved

__all__ = [
    "LAW",
    "Copies",
    "Int8Blocks",
    "Record",
    "Room",
    "TensorSet",
    "add_noise_",
    "add_noise_sequence_",
    "backends",
    "common_device",
    "default_backend",
    "integers",
    "with_live",
    "linear_of",
    "moved",
    "noise",
    "noise_dots",
    "perturbed",
    "perturbed_into",
    "perturbed_linear",
    "quantise",
    "sketch",
]
