"""Checkpoints of a targeted run: the targets lie beside its step log once, and are named here."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from zopro import checkpoint as packing
from zopro.optimizer import ZOPrO
from zopro.steplog.aims import NONE, load_aim, save_aim
from zopro.targets import Targets

TENSORS = ("prev", "v")


class NamedTargets:
    """Names the file that holds an optimizer's targets; written once for each `set_targets`."""

    def __init__(self) -> None:
        self._of: Targets | None = None
        self._name: dict[str, str] = {}

    def put(self, state: dict[str, Any], zopro: ZOPrO, folder: Path) -> dict[str, Any]:
        """`state`, an optimizer's state_dict, with name and SHA-256 of the file in `folder` in the
        place of its targets' tensors. Without targets: `state` itself."""
        own = state[packing.KEY]
        if own["targets"] is None:
            return state
        if self._of is not zopro._targets:
            aim = save_aim(folder, zopro._targets, zopro._members())
            self._of, self._name = zopro._targets, {"file": aim.file, "digest": aim.digest}
        rest = {n: x for n, x in own["targets"].items() if n not in TENSORS}
        return {**state, packing.KEY: {**own, "targets": {**rest, **self._name}}}


def taken(state: dict[str, Any], zopro: ZOPrO, checkpoint: Path) -> dict[str, Any]:
    """`state` with the tensors of the file that it names, which lies beside `checkpoint`.

    Raises ValueError where the file is gone, another (its SHA-256), or of another model.
    """
    own = state.get(packing.KEY)
    saved = own and own.get("targets")
    if not saved or "file" not in saved:
        return state
    aim = dataclasses.replace(NONE, file=saved["file"], digest=saved["digest"])
    position = {p: i for i, p in enumerate(zopro._flat())}
    params = [p for p, i in position.items() if i in set(saved["params"])]
    try:
        prev, v, v_norm = load_aim(checkpoint.parent, aim, params)
    except ValueError as error:
        raise ValueError(f"{str(checkpoint)!r} cannot be gone on from: {error}") from error
    whole = Targets(prev, v, {}, v_norm, "constant", None, 0.0, 0)
    tensors = packing.pack_targets(whole, position)
    targets = {**saved, **{n: tensors[n] for n in ("params", *TENSORS)}}
    return {**state, packing.KEY: {**own, "targets": targets}}
