"""The optimizer's own part of a state_dict: plain numbers, lists and tensors, safe to unpickle."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

import zopro_kernels as zk

from .targets import Stored, Targets, norms

KEY = "zopro"
FIELDS = (
    "law",
    "seed",
    "step",
    "passes",
    "skipped_steps",
    "distribution",
    "estimator",
    "num_directions",
    "trainable",
    "shapes",
    "pending",
    "targets",
)


def pack_targets(targets: Targets | None, position: dict[Tensor, int]) -> dict[str, Any] | None:
    """Targets with parameters as their positions among all groups' parameters."""
    if targets is None:
        return None
    named = isinstance(targets.schedule, str)
    return {
        "params": [position[p] for p in targets.prev],
        "prev": [_plain(x) for x in targets.prev.values()],
        "v": [_plain(x) for x in targets.v.values()],
        "storage": targets.storage,
        "schedule": targets.schedule if named else None,  # a function has no place in a file
        "steps": targets.steps,
        "half_life": targets.half_life,
        "start": targets.start,
    }


def unpack_targets(
    saved: dict[str, Any] | None, flat: list[Tensor], current: Targets | None
) -> Targets | None:
    """The saved targets on the parameters' devices; a callable schedule comes from `current`."""
    if saved is None:
        return None
    schedule = saved["schedule"]
    if schedule is None:
        if current is None or not callable(current.schedule):
            raise ValueError(
                "the state_dict's schedule was a callable, which no file can hold: call "
                "set_targets with that callable before load_state_dict"
            )
        schedule = current.schedule
    params = [flat[i] for i in saved["params"]]
    prev, v = (
        {p: _loaded(x, p.device) for p, x in zip(params, saved[name])} for name in ("prev", "v")
    )
    for p, update in prev.items():
        if update.shape != p.shape:
            raise ValueError(
                f"the state_dict's targets have a tensor of shape {tuple(update.shape)} where the "
                f"parameter has {tuple(p.shape)}: it belongs to another model"
            )
    timing = saved["steps"], saved["half_life"], saved["start"]
    return Targets(prev, v, *norms(prev, v), schedule, *timing, saved.get("storage", "fp32"))


def _plain(x: Stored | None) -> Tensor | dict[str, Tensor] | None:
    """Types that any reader of a checkpoint knows."""
    return {"values": x.values, "scales": x.scales} if isinstance(x, zk.Int8Blocks) else x


def _loaded(x: Tensor | dict[str, Tensor] | None, device: torch.device) -> Stored | None:
    """A copy of what `_plain` made, on `device`."""
    if isinstance(x, dict):
        return zk.Int8Blocks(*(x[k].to(device, copy=True) for k in ("values", "scales")))
    return None if x is None else x.to(device, copy=True)


def check(state_dict: dict[str, Any], flat: list[Tensor]) -> dict[str, Any]:
    """The optimizer's part of `state_dict`, or one sentence on why it cannot be loaded."""
    own = state_dict.get(KEY)
    if own is None:
        raise ValueError(
            f"the state_dict has no {KEY!r} entry: it was not written by ZOPrO, so it cannot be "
            "loaded into it"
        )
    if own.get("law") != zk.LAW:
        raise ValueError(
            f"the state_dict was written under noise law {own.get('law')!r}, this zopro_kernels "
            f"has law {zk.LAW}: load it with the version that wrote it"
        )
    missing = [name for name in FIELDS if name not in own]
    if missing:
        raise ValueError(f"the state_dict's {KEY!r} entry has no {missing[0]!r}: it is damaged")
    if any(i >= len(flat) for i in own["trainable"]):
        raise ValueError(
            f"the state_dict has trainable parameter {max(own['trainable'])} where the optimizer "
            f"has {len(flat)} parameters: it belongs to another model"
        )
    for i, shape in zip(own["trainable"], own["shapes"]):
        if list(flat[i].shape) != list(shape):
            raise ValueError(
                f"the state_dict's parameter {i} has shape {tuple(shape)} where the optimizer has "
                f"{tuple(flat[i].shape)}: it belongs to another model"
            )
    return own
