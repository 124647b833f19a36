"""Targets beside a step log: one safetensors file for each pair of updates, named by its digest."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from torch import Tensor

from ..targets import Targets
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
    """Writes prev and v of `members` (parameter, name, group) unless they are there already."""
    if targets is None:
        return NONE
    tensors = {}
    for i, (p, _, _) in enumerate(members):
        tensors[f"prev.{i}"] = targets.prev[p].cpu()
        if targets.v[p] is not None:
            tensors[f"v.{i}"] = targets.v[p].cpu()
    data = safetensors().save(tensors)
    digest = hashlib.sha256(data).hexdigest()
    path = folder / file_name(digest)
    if not path.exists():
        beside = path.with_suffix(".part")
        with open(beside, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
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
) -> tuple[dict[Tensor, Tensor], dict[Tensor, Tensor | None]]:
    """prev and v of each parameter, fp32 on its device.

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
    prev, v = {}, {}
    for i, p in enumerate(params):
        given = found.get(f"prev.{i}")
        if given is None or any(
            t is not None and t.shape != p.shape for t in (given, found.get(f"v.{i}"))
        ):
            raise ValueError(f"the log's targets {aim.file} do not fit parameter {i}")
        prev[p] = given.to(p.device)
        v[p] = found[f"v.{i}"].to(p.device) if f"v.{i}" in found else None
    return prev, v
