"""Nested state as one safetensors file: tensors, and in JSON what holds them. No pickle."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open

from zopro.files import write_beside

KEY = "tree"


def save(path: Path, tree: Any, sync: bool = True) -> None:
    """Writes `tree` beside and renames. dict (any keys below), list, tuple, tensors of any dtype,
    shape and device, NumPy scalars, float, int, bool, str and None; TypeError for anything else."""
    tensors: dict[str, torch.Tensor] = {}
    text = json.dumps(_packed(tree, tensors))
    write_beside(path, safetensors.torch.save(tensors, {KEY: text}), sync)


def load(path: Path) -> Any:
    """What `save` wrote, tensors on the CPU. ValueError for a file that is damaged or another."""
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            tree = json.loads((file.metadata() or {})[KEY])
        return _unpacked(tree, tensors)
    except FileNotFoundError:
        raise
    except (SafetensorError, OSError, KeyError, ValueError, TypeError) as error:
        raise ValueError(f"{str(path)!r} is damaged: {error}") from error


def _packed(value: Any, tensors: dict[str, torch.Tensor]) -> Any:
    """A dictionary of one entry for whatever JSON has no word for, floats in it to the bit."""
    if isinstance(value, torch.Tensor):
        name = str(len(tensors))
        tensors[name] = value.detach().to("cpu", copy=True).contiguous()
        return {"tensor": name}
    if isinstance(value, dict):
        pairs = [[_packed(k, tensors), _packed(v, tensors)] for k, v in value.items()]
        return {"dict": pairs}
    if isinstance(value, tuple):
        return {"tuple": [_packed(v, tensors) for v in value]}
    if isinstance(value, list):
        return [_packed(v, tensors) for v in value]
    if isinstance(value, np.generic):
        return value.item()
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"a {type(value).__name__} cannot be saved without pickle: {value!r}")


def _unpacked(value: Any, tensors: dict[str, torch.Tensor]) -> Any:
    if isinstance(value, list):
        return [_unpacked(v, tensors) for v in value]
    if not isinstance(value, dict):
        return value
    ((kind, inner),) = value.items()
    if kind == "tensor":
        return tensors[inner]
    if kind == "tuple":
        return tuple(_unpacked(v, tensors) for v in inner)
    return {_unpacked(k, tensors): _unpacked(v, tensors) for k, v in inner}
