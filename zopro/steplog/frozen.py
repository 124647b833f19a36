"""What a run leaves as it was: digests of the rest of the model, and their comparison with a base.

The rest is what a checkpoint of the model has beside the trained parameters: frozen parameters and
buffers that are saved (those that are not follow from the configuration). Tensors that share memory
are one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..digests import digest_each
from . import layout as f
from .base import Base

_WHOLE = ("float64", "float32", "bfloat16", "float16")  # that a cast leads from one to another


def frozen_of(rest: nn.Module | Mapping[str, Tensor], trained: Iterable[Tensor]) -> tuple:
    """A layout.Frozen for each tensor of `rest` (a model's state_dict, or a mapping by name) that
    has no memory of `trained`. Reads each memory once; TypeError for anything else."""
    if isinstance(rest, nn.Module):
        rest = rest.state_dict()
    if not isinstance(rest, Mapping):
        raise TypeError(f"frozen is a {type(rest).__name__}: give a model, or tensors by name")
    own = {_memory(p) for p in trained}
    found, digests = [], {}
    for name, tensor in rest.items():
        if not isinstance(tensor, Tensor) or (key := _memory(tensor)) in own:
            continue
        if key not in digests:
            digests[key] = _digest(tensor)
        dtype = str(tensor.dtype).removeprefix("torch.")
        found.append(f.Frozen(name, tuple(tensor.shape), dtype, digests[key]))
    return tuple(found)


def _memory(x: Tensor) -> Any:
    """Equal for tensors that are the same elements; one's own where it has no plain memory."""
    if not _plain(x) or not x.numel():
        return id(x)
    return x.data_ptr(), tuple(x.shape), x.stride(), x.dtype, x.device


def _plain(x: Tensor) -> bool:
    """Whether its bits are its memory's: neither offloaded (meta) nor a subclass that wraps others,
    as torchao's quantised tensors are; those of bitsandbytes are plain."""
    wraps = hasattr(type(x), "__tensor_flatten__")
    return not wraps and x.layout is torch.strided and x.device.type != "meta"


def _digest(x: Tensor) -> str | None:
    return digest_each([x])[0] if _plain(x) else None


@dataclass(frozen=True)
class Compared:
    """How many frozen tensors are those of a base, and the names of those compared with nothing:
    not in it, in another form (quantised), or without bits that could be read."""

    equal: int
    left: tuple[str, ...]


def compare(frozen: Iterable[f.Frozen], base: Base) -> Compared:
    """Compares with the files of `base`, cast to the run's dtype. Raises ValueError that names the
    first tensor that is another than the run's."""
    equal, left, known = 0, [], set()
    digests: dict[tuple[str, str], str] = {}
    for entry in frozen:
        key = _key(entry.name, base)
        held = None if key is None else _held(base, key, entry)
        if held is None:
            left.append(entry)
            continue
        if tuple(held.shape) != entry.shape:
            raise ValueError(_other(base, key, f"shape {tuple(held.shape)}", entry.shape))
        at = key, entry.dtype
        if at not in digests:
            digests[at] = digest_each([held.to(getattr(torch, entry.dtype))])[0]
        if digests[at] != entry.digest:
            raise ValueError(_other(base, key, f"SHA-256 {digests[at][:12]}", entry.digest[:12]))
        known.add(entry.digest)
        equal += 1
    # A file leaves out the second name of a tied weight.
    missing = [e.name for e in left if e.digest is None or e.digest not in known]
    return Compared(equal + len(left) - len(missing), tuple(missing))


def _other(base: Base, key: str, here: object, there: object) -> str:
    return (
        f"base {base.path} has another {key!r} ({here}, the log has {there}), which the run left "
        "frozen: give the model that the run started from"
    )


def _key(name: str, base: Base) -> str | None:
    """The tensor's name in a model's files: without what PEFT wraps it in."""
    plain = name.removeprefix("base_model.model.").replace(".base_layer.", ".")
    return next((k for k in (name, plain.replace(".original_module.", ".")) if k in base), None)


def _held(base: Base, key: str, entry: f.Frozen) -> Tensor | None:
    """The tensor in the files; None where no cast makes the run's bits of it."""
    if entry.digest is None:
        return None
    held = base.tensor(key)
    dtype = str(held.dtype).removeprefix("torch.")
    return held if dtype == entry.dtype or {dtype, entry.dtype} <= set(_WHOLE) else None
