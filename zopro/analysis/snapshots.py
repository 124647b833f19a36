"""The sketches of a run, in its folder: written while it trains, read by the measures.

    sketches/index.json                    {"format": 1, "law": 1, "seed", "dim": D, "layer_dim": d}
    sketches/start.<network>.safetensors   the first snapshot's sketches themselves: `whole` fp64
                                           [D], `layers` fp64 [L, d], `sums` fp64 [L]; metadata
                                           `layers`, `numels`, `shapes`: JSON
    sketches/<number>.<network>.safetensors  a snapshot: sketches of theta - theta_0, int16 with one
                                           scale a row: `whole` [D], `layers` [L, d], `scales` fp32
                                           [1 + L]; `sums` fp64 [L]; metadata `phase`, `step`,
                                           `seconds`

Numbers count up over the networks of a run, in the order of time. Each file is written beside and
renamed, and no file is changed afterwards, so a reader sees whole snapshots at any time and a kill
leaves the last one whole. int16 adds 4e-5 of the distance from the start to each, far below the
sketch's own error.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save
from torch import Tensor

import zopro_kernels as zk
from zopro.files import write_beside

from .sketched import Sketched, sketch_weights
from .tracks import Track, Tracks

FOLDER, INDEX, FORMAT = "sketches", "index.json", 1
TENSORS, METADATA = ("whole", "layers", "scales", "sums"), ("phase", "step", "seconds")
_SNAPSHOT = re.compile(r"(\d+)\.([A-Za-z][\w-]*)\.safetensors")
_STEPS = 32767  # of int16 on either side of 0


class SketchWriter:
    """Writes snapshots to `folder`/sketches; goes on with what a run has left there.

    seed: of the sketch, in [0, 2^64), the same for all networks of a run, or they do not compare.
    dim: numbers of the whole's sketch; layer_dim: of each layer's, a divisor of dim. Both are
    multiples of 128. Raises ValueError where the folder's index has others.
    """

    def __init__(
        self, folder: str | Path, *, seed: int = 0, dim: int = 8192, layer_dim: int = 1024
    ) -> None:
        if layer_dim < 1 or dim % layer_dim:
            raise ValueError(f"layer_dim={layer_dim} does not divide dim={dim}: use a divisor")
        self.path = Path(folder) / FOLDER
        self._index = {"format": FORMAT, "law": zk.LAW, "seed": seed, "dim": dim,
                       "layer_dim": layer_dim}  # fmt: skip
        self._starts: dict[str, Sketched] = {}
        if (self.path / INDEX).is_file():
            found = _read_index(self.path)
            for name, value in self._index.items():
                if found[name] != value:
                    raise ValueError(
                        f"{name}={value}, but the sketches in {str(self.path)!r} have "
                        f"{found[name]}: give the same, or name a new folder"
                    )

    def add(self, network: str, weights: Mapping[str, Tensor], phase: str, step: int) -> Path:
        """Sketches `weights` (by name, fp32, bf16 or fp16, read only) and writes them; its file.

        The first snapshot of a network is the start that later ones are relative to. Those of the
        same phase from `step` on, and of what came after, are dropped first: a run that goes on
        after a kill writes them again. Raises ValueError for no weights, for others than the
        start's, or for weights that are not finite (nothing is written then).
        """
        if not re.fullmatch(r"[A-Za-z][\w-]*", network):
            raise ValueError(f"network={network!r} is not allowed: use letters, digits, _ and -")
        i = self._index
        now = sketch_weights(weights, i["seed"], i["dim"], i["layer_dim"])
        if not np.isfinite(now.whole).all() or not np.isfinite(now.by_layer).all():
            raise ValueError(f"the {network}'s weights are not finite at step {step} of {phase!r}")
        self.path.mkdir(parents=True, exist_ok=True)
        if not (self.path / INDEX).is_file():
            write_beside(self.path / INDEX, json.dumps(i) + "\n", sync=False)
        kept = self._forget(network, phase, step)
        start = self._start(network, now, kept)
        moved = now.minus(start, network)
        path = self.path / f"{max(_numbers(self.path), default=-1) + 1:06d}.{network}.safetensors"
        metadata = {"phase": phase, "step": str(step), "seconds": repr(time.time())}
        write_beside(path, save(_packed(moved), metadata), sync=False)
        return path

    def _start(self, network: str, now: Sketched, kept: bool) -> Sketched:
        path = self.path / f"start.{network}.safetensors"
        if not kept:  # no snapshot is left of it: it starts here
            tensors = {"whole": now.whole, "layers": now.by_layer, "sums": now.sums}
            metadata = {"layers": json.dumps(now.layers), "numels": json.dumps(now.numels.tolist()),
                        "shapes": json.dumps(now.shapes)}  # fmt: skip
            write_beside(path, save(tensors, metadata), sync=False)
            self._starts[network] = now
        elif network not in self._starts:
            self._starts[network] = _read_start(path)
        return self._starts[network]

    def _forget(self, network: str, phase: str, step: int) -> bool:
        """Drops what will be written again; whether snapshots of the network are left."""
        found = [(number, path) for number, name, path in _snapshots(self.path) if name == network]
        for k, (_, path) in enumerate(found):
            meta = _metadata(path)
            if meta["phase"] == phase and int(meta["step"]) >= step:
                for _, later in reversed(found[k:]):
                    later.unlink(missing_ok=True)
                return k > 0
        return bool(found)


def read_sketches(run: str | Path) -> Tracks:
    """The tracks of a run from its folder (or its folder of sketches), while it trains or after.

    Raises ValueError, one sentence, where there is no folder, no sketch, or a damaged file.
    """
    path = Path(run)
    if not path.is_dir():
        raise ValueError(f"{str(run)!r} is no folder: give the output_dir of a run")
    if (path / FOLDER).is_dir():
        path = path / FOLDER
    if not (path / INDEX).is_file():
        raise ValueError(
            f"{str(run)!r} holds no sketches ({FOLDER}/{INDEX}): give the output_dir of a run that "
            "trained with zo_sketch_every (or sketch_every) above 0, or a folder of checkpoints"
        )
    index = _read_index(path)
    by_network: dict[str, list[tuple[int, Path]]] = {}
    for number, network, file in _snapshots(path):
        by_network.setdefault(network, []).append((number, file))
    if not by_network:
        raise ValueError(f"{str(run)!r} holds no snapshot yet: train on, then read again")
    tracks = {name: _track(path, name, found) for name, found in sorted(by_network.items())}
    return Tracks(str(run), tracks, index["dim"], index["layer_dim"])


def _track(path: Path, network: str, found: list[tuple[int, Path]]) -> Track:
    start = _read_start(path / f"start.{network}.safetensors")
    rows, metas = [], []
    for _, file in found:
        held, meta = _read(file, TENSORS, METADATA)
        if held["layers"].shape != start.by_layer.shape or held["whole"].shape != start.whole.shape:
            raise ValueError(f"{str(file)!r} is damaged: its shapes are not those of the start")
        scales = held["scales"].astype(np.float64)
        rows.append((held["whole"] * scales[0], held["layers"] * scales[1:, None], held["sums"]))
        metas.append(meta)
    whole, layers, sums = (np.stack(part) for part in zip(*rows))
    return Track(
        network, np.array([n for n, _ in found]), tuple(m["phase"] for m in metas),
        np.array([int(m["step"]) for m in metas]), np.array([float(m["seconds"]) for m in metas]),
        start.layers, start.numels, start.shapes, whole, layers, sums,
    )  # fmt: skip


def _packed(s: Sketched) -> dict[str, np.ndarray]:
    rows = [s.whole, *s.by_layer]
    scales = np.array([np.abs(row).max() / _STEPS for row in rows]).astype(np.float32)
    small = [np.rint(row / max(float(scale), 1e-300)).clip(-_STEPS, _STEPS).astype(np.int16)
             for row, scale in zip(rows, scales)]  # fmt: skip
    return {"whole": small[0], "layers": np.stack(small[1:]), "scales": scales, "sums": s.sums}


def _snapshots(path: Path) -> list[tuple[int, str, Path]]:
    """(number, network, file) in order."""
    found = ((_SNAPSHOT.fullmatch(p.name), p) for p in path.glob("*.safetensors"))
    return sorted((int(m[1]), m[2], p) for m, p in found if m)


def _numbers(path: Path) -> list[int]:
    return [number for number, _, _ in _snapshots(path)]


def _read_index(path: Path) -> dict[str, Any]:
    try:
        index = json.loads((path / INDEX).read_text())
        ok = all(isinstance(index[n], int) for n in ("format", "law", "seed", "dim", "layer_dim"))
    except (OSError, ValueError, KeyError, TypeError):
        ok = False
    if not ok:
        raise ValueError(f"{str(path / INDEX)!r} is damaged: train into a new folder")
    if index["format"] != FORMAT:
        raise ValueError(
            f"{str(path / INDEX)!r} has format {index['format']}, this zopro reads {FORMAT}: "
            "install the zopro that wrote it"
        )
    return index


def _metadata(path: Path) -> dict[str, str]:
    return _read(path, (), ("phase", "step"))[1]


def _read(
    path: Path, names: tuple[str, ...], meta: tuple[str, ...]
) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            held = {name: file.get_tensor(name) for name in names}
            return held, {name: metadata[name] for name in meta}
    except FileNotFoundError:
        raise ValueError(f"{str(path)!r} is gone: copy the whole folder of sketches") from None
    except (SafetensorError, OSError, KeyError) as error:
        raise ValueError(
            f"{str(path)!r} is damaged ({error}): remove it to read the other snapshots"
        ) from error


def _read_start(path: Path) -> Sketched:
    held, meta = _read(path, ("whole", "layers", "sums"), ("layers", "numels", "shapes"))
    try:
        layers, numels = json.loads(meta["layers"]), json.loads(meta["numels"])
        shapes = {name: tuple(shape) for name, shape in json.loads(meta["shapes"]).items()}
    except ValueError as error:
        raise ValueError(f"{str(path)!r} is damaged ({error}): train into a new folder") from error
    return Sketched(
        tuple(layers), np.array(numels), shapes, held["whole"], held["layers"], held["sums"]
    )
