"""Tracks from checkpoints that any trainer made: adapters or whole models in safetensors."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from torch import Tensor

from .sketched import Sketched, sketch_weights
from .tracks import Track, Tracks

# Adapters first: beside one, a model.safetensors would be its head or base.
FILES = ("adapter_model*.safetensors", "model*.safetensors")
FLOATS = ("F32", "BF16", "F16")


def from_checkpoints(
    folders: str | Path | Mapping[str, str | Path],
    *,
    seed: int = 0,
    dim: int = 8192,
    layer_dim: int = 1024,
) -> Tracks:
    """Tracks of the checkpoints in a folder, or in one folder a network ({"policy": ..., "reward":
    ...}; a folder alone is the policy's): checkpoint-*/adapter_model.safetensors, or
    model.safetensors, or sharded ones, in the order of their numbers.

    Tensors are read one layer at a time. Positions are relative to the first checkpoint; networks
    are paired by rank: the first checkpoint of each is their time 0, and so on.

    Raises ValueError, one sentence, for a folder without checkpoints, a damaged file, or
    checkpoints whose tensors differ in name or shape (adapters of another rank).
    """
    if not isinstance(folders, Mapping):
        folders = {"policy": folders}
    tracks, rank = {}, len(folders)
    for k, (network, folder) in enumerate(folders.items()):
        found = _checkpoints(Path(folder))
        start: Sketched | None = None
        moved = []
        for _, path in found:
            now = sketch_weights(_Lazy(path), seed, dim, layer_dim, at_once=1)
            if start is None:
                start = now
            try:
                moved.append(now.minus(start, network))
            except ValueError as error:
                first = str(found[0][1])
                raise ValueError(f"{str(path)!r} does not fit {first!r}: {error}") from None
        tracks[network] = Track(
            network, np.arange(len(found)) * rank + k, ("",) * len(found),
            np.array([step for step, _ in found]),
            np.array([path.stat().st_mtime for _, path in found]),
            start.layers, start.numels, start.shapes, np.stack([m.whole for m in moved]),
            np.stack([m.by_layer for m in moved]), np.stack([m.sums for m in moved]),
        )  # fmt: skip
    return Tracks(", ".join(map(str, folders.values())), tracks, dim, layer_dim)


def _checkpoints(folder: Path) -> list[tuple[int, Path]]:
    if not folder.is_dir():
        raise ValueError(f"{str(folder)!r} is no folder: give one with checkpoint-* in it")
    found = []
    for path in folder.iterdir():
        number = re.search(r"(\d+)$", path.name)
        if path.is_dir() and number and _files(path):
            found.append((int(number[1]), path))
    if not found:
        raise ValueError(
            f"{str(folder)!r} holds no checkpoints: give a folder with checkpoint-N/"
            "adapter_model.safetensors or checkpoint-N/model.safetensors in it"
        )
    return sorted(found)


def _files(checkpoint: Path) -> list[Path]:
    return next(filter(None, (sorted(checkpoint.glob(pattern)) for pattern in FILES)), [])


class _Lazy(Mapping):
    """The floating-point tensors of a checkpoint by name, each read when it is asked for."""

    def __init__(self, checkpoint: Path) -> None:
        self._homes: dict[str, Path] = {}
        for path in _files(checkpoint):
            with _opened(path) as file:
                names = list(file.keys())
                floats = [n for n in names if file.get_slice(n).get_dtype() in FLOATS]
            self._homes |= dict.fromkeys(floats, path)
        if not self._homes:
            raise ValueError(f"{str(checkpoint)!r} holds no fp32, bf16 or fp16 tensors: remove it")

    def __getitem__(self, name: str) -> Tensor:
        with _opened(self._homes[name]) as file:
            return file.get_tensor(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._homes)

    def __len__(self) -> int:
        return len(self._homes)


@contextmanager
def _opened(path: Path) -> Iterator[safe_open]:
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{str(path)!r} is damaged ({error}): remove its folder") from error
