"""Targets beside a step log: one safetensors file for each pair of updates, named by its digest."""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch
from torch import Tensor

import zopro_kernels as zk

from ..files import write_beside
from ..targets import Stored, Targets
from . import layout as f

NONE = f.Aim(None, None, (), None, None, 0.0, 0)


def safetensors():
    """safetensors.torch; ImportError with what to do where it is not installed."""
    try:
        import safetensors.torch as module
    except ModuleNotFoundError as error:
        raise ImportError(
            "the targets of a step log are kept as safetensors: pip install safetensors"
        ) from error
    return module


def file_name(digest: str) -> str:
    """Of the targets whose file has this SHA-256."""
    return f"targets-{digest[:16]}.safetensors"


def save_aim(folder: Path, targets: Targets | None, members: list[tuple]) -> f.Aim:
    """Writes prev and v of `members` (parameter, name, group) unless they are there already.

    In the form that they are stored in; beside other forms than fp32 ||v|| of each (fp64 [T]).
    """
    if targets is None:
        return NONE
    tensors = {}
    for i, (p, _, _) in enumerate(members):
        for name, x in ((f"prev.{i}", targets.prev[p]), (f"v.{i}", targets.v[p])):
            if isinstance(x, zk.Int8Blocks):
                tensors[name], tensors[f"{name}.scales"] = x.values.cpu(), x.scales.cpu()
            elif x is not None:
                tensors[name] = x.cpu()
    if targets.storage != "fp32":
        v_norms = [targets.v_norm[p] for p, _, _ in members]
        tensors["v_norms"] = torch.tensor(v_norms, dtype=torch.float64)
    data = safetensors().save(tensors)
    digest = hashlib.sha256(data).hexdigest()
    path = folder / file_name(digest)
    if not path.exists():
        write_beside(path, data)
    return f.Aim(
        file=path.name,
        digest=digest,
        norms=tuple(targets.norm[p] for p, _, _ in members),
        schedule=targets.schedule if isinstance(targets.schedule, str) else None,
        steps=targets.steps,
        half_life=targets.half_life,
        start=targets.start,
    )


def load_aim(
    folder: Path | None, aim: f.Aim, params: list[Tensor]
) -> tuple[dict[Tensor, Stored], dict[Tensor, Stored | None], dict[Tensor, float]]:
    """prev, v and ||v|| of each parameter, as the run stored them, on its device.

    Raises ValueError for a file outside of the log's folder, another digest, name or shape.
    """
    # No other name is ever written, so none can lead out of the folder.
    known = aim.digest is not None and aim.file == file_name(aim.digest)
    if folder is None or not known or (folder / aim.file).is_symlink():
        raise ValueError(f"the log names targets {aim.file!r}, which is no file in its folder")
    try:
        data = (folder / aim.file).read_bytes()
    except OSError as error:
        raise ValueError(
            f"the log's targets {aim.file} cannot be read ({error.strerror}): put the file beside "
            "the log"
        ) from None
    if hashlib.sha256(data).hexdigest() != aim.digest:
        raise ValueError(
            f"the log's targets {aim.file} are not those of the run (their digest is another): put "
            "the run's own beside the log"
        )
    found = safetensors().load(data)
    prev, v, v_norm = {}, {}, {}
    for i, p in enumerate(params):
        prev[p], v[p] = (_taken(found, f"{name}.{i}", p) for name in ("prev", "v"))
        if prev[p] is None or any(x is not None and x.shape != p.shape for x in (prev[p], v[p])):
            raise ValueError(f"the log's targets {aim.file} do not fit parameter {i}")
        fp32 = 0.0 if v[p] is None else 1.0
        v_norm[p] = found["v_norms"][i].item() if "v_norms" in found else fp32
    return prev, v, v_norm


def _taken(found: dict[str, Tensor], name: str, p: Tensor) -> Stored | None:
    if name not in found or f"{name}.scales" not in found:
        return found[name].to(p.device) if name in found else None
    return zk.Int8Blocks(found[name].to(p.device), found[f"{name}.scales"].to(p.device))
