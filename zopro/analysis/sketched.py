"""The sketches of one set of weights: in all, and layer by layer, in one pass."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

import zopro_kernels as zk

from .names import HEAD, canonical, in_order, layer_of, parameter_index

# Layers sketched in one call: fp64 of 8,192 numbers each, 4 MiB.
AT_ONCE = 64


@dataclass(frozen=True, eq=False)
class Sketched:
    """layers: L names; numels: int64 [L]; shapes: of each tensor by canonical name; whole: fp64
    [dim], without the head; by_layer: fp64 [L, layer_dim]; sums: fp64 [L], over the elements.
    """

    layers: tuple[str, ...]
    numels: np.ndarray
    shapes: dict[str, tuple[int, ...]]
    whole: np.ndarray
    by_layer: np.ndarray
    sums: np.ndarray

    def minus(self, start: Sketched, network: str) -> Sketched:
        """Of theta - theta_0; ValueError where the two have other tensors."""
        for name in sorted(set(self.shapes) | set(start.shapes)):
            here, there = self.shapes.get(name), start.shapes.get(name)
            if here != there:
                raise ValueError(
                    f"{name!r} of the {network} is {_shape(there)} in its first snapshot and "
                    f"{_shape(here)} here: sketch the same tensors throughout"
                )
        return replace(
            self,
            whole=self.whole - start.whole,
            by_layer=self.by_layer - start.by_layer,
            sums=self.sums - start.sums,
        )


def _shape(shape: tuple[int, ...] | None) -> str:
    return "absent" if shape is None else str(tuple(shape))


def sketch_weights(
    weights: Mapping[str, Tensor], seed: int, dim: int, layer_dim: int, at_once: int = AT_ONCE
) -> Sketched:
    """Sketches of `weights` (any device, read only) by name; ValueError where there are none.

    The whole's has `dim` numbers, each layer's `layer_dim`: its own of `dim`, folded, which is a
    sketch under the same law. at_once: layers whose tensors are asked for at a time.
    """
    if not weights:
        raise ValueError("there are no weights to sketch: give at least one tensor")
    names = _canonical(weights)
    members: dict[str, list[str]] = {}
    for short in names:
        members.setdefault(layer_of(short), []).append(short)
    layers, shapes = in_order(members), {}
    whole, parts = np.zeros(dim), []
    sums, numels = np.zeros(len(layers)), np.zeros(len(layers), dtype=np.int64)
    for at in range(0, len(layers), at_once):
        some = range(at, min(at + at_once, len(layers)))
        chosen = [(row, short) for row in some for short in members[layers[row]]]
        tensors = [weights[names[short]].detach() for _, short in chosen]
        full = zk.sketch(
            tensors, seed, dim, params=[parameter_index(short) for _, short in chosen],
            groups=[row - at for row, _ in chosen],
        ).cpu().numpy()  # fmt: skip
        whole += sum(full[row - at] for row in some if layers[row] != HEAD)
        parts.append(full.reshape(len(some), -1, layer_dim).sum(axis=1))
        for (row, short), tensor in zip(chosen, tensors):
            shapes[short] = tuple(tensor.shape)
            numels[row] += tensor.numel()
            sums[row] += tensor.sum(dtype=torch.float64).item()
    return Sketched(tuple(layers), numels, shapes, whole, np.concatenate(parts), sums)


def _canonical(weights: Mapping[str, Tensor]) -> dict[str, str]:
    """Names by canonical name; ValueError where two share one."""
    names: dict[str, str] = {}
    for name in weights:
        if (short := canonical(name)) in names:
            raise ValueError(
                f"{names[short]!r} and {name!r} are both {short!r} to the sketch: give the tensors "
                "of one network and one adapter"
            )
        names[short] = name
    return names
