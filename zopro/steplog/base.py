"""Weights on disk that a log begins from: a model's folder, an adapter's, a safetensors file."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..files import told
from . import layout as f
from .aims import safetensors

# What a folder holds beside weights: configuration and tokenizer, no pickles, no training state.
_COPIED = (".json", ".txt", ".md", ".jinja", ".model", ".yaml")
_LEFT = ("trainer_state.json", "model.safetensors.index.json")


class Base:
    """Where each tensor lies; nothing is read but names until it is asked for.

    Raises ValueError where `path` holds no safetensors.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._files = _files(self.path)
        self._where = {}
        for file in self._files:
            with _opened(file) as held:
                self._where |= dict.fromkeys(held.keys(), file)

    def __contains__(self, key: str) -> bool:
        return key in self._where

    def tensor(self, key: str) -> Tensor:
        """That of a name in the files, on the CPU, in their dtype."""
        with _opened(self._where[key]) as held:
            return held.get_tensor(key)

    def key(self, name: str) -> str:
        """The name in the files of a parameter: its own, or PEFT's, which leaves the adapter out.

        Raises ValueError where there is none, or no one.
        """
        if name in self._where:
            return name
        parts = name.split(".")
        cuts = [(i, i + 1) for i in range(len(parts))]
        cuts += [(i, i + 2) for i, part in enumerate(parts) if part == "modules_to_save"]
        shorter = {".".join(parts[:a] + parts[b:]) for a, b in cuts} & self._where.keys()
        if len(shorter) != 1:
            raise ValueError(
                f"base {self.path} has no tensor {name!r}, which the log trains: give the folder "
                "or file that the run started from"
            )
        return shorter.pop()

    def others(self, parameters: Iterable[f.Parameter]) -> list[str]:
        """The tensors that are none of `parameters`, by their names in the files."""
        return sorted(self._where.keys() - {self.key(p.name) for p in parameters})

    def below(self) -> str | None:
        """Of an adapter's folder: the model that it names as its base, a path or a hub's name."""
        file = self.path / "adapter_config.json"
        try:
            name = json.loads(file.read_text(encoding="utf-8")).get("base_model_name_or_path")
        except (OSError, ValueError, AttributeError):
            return None
        return name if isinstance(name, str) and name else None

    @property
    def adapter(self) -> bool:
        """Whether this is an adapter's folder."""
        return (self.path / "adapter_config.json").is_file()

    def tensors(self, parameters: Iterable[f.Parameter], device: str = "cpu") -> dict[str, Tensor]:
        """The parameters by name, in the dtypes of the log, on `device`."""
        found = {}
        for p in parameters:
            tensor = self.tensor(self.key(p.name))
            found[p.name] = tensor.to(device, getattr(torch, p.dtype), copy=True)
        return found

    @staticmethod
    def check_out(out: str | Path) -> None:
        """ValueError where something is at `out` already."""
        out = Path(out)
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise ValueError(f"out={str(out)!r} exists: name a folder that is new or empty")

    def write(self, out: str | Path, tensors: Mapping[str, Tensor]) -> Path:
        """A folder like this one at `out`, with `tensors` (by parameter name) in the place of its
        own; beside and renamed. Raises ValueError where something is at `out` already, OSError
        where it cannot be written."""
        self.check_out(out)
        out = Path(out)
        beside = out.with_name(out.name + ".part")
        shutil.rmtree(beside, ignore_errors=True)
        with told(out):
            beside.mkdir(parents=True)
            self._write(beside, tensors)
            if out.is_dir():
                out.rmdir()
            os.replace(beside, out)
        return out

    def _write(self, beside: Path, tensors: Mapping[str, Tensor]) -> None:
        new = {self.key(name): tensor for name, tensor in tensors.items()}
        for file in self._files:
            with _opened(file) as held:
                metadata = held.metadata()
                values = {key: new.get(key, held.get_tensor(key)) for key in held.keys()}  # noqa: SIM118
            values = {key: value.detach().cpu().contiguous() for key, value in values.items()}
            safetensors().save_file(values, beside / file.name, metadata)
        if self.path.is_dir():
            self._copy_rest(beside, {str(t.dtype).removeprefix("torch.") for t in new.values()})

    def _copy_rest(self, folder: Path, dtypes: set[str]) -> None:
        for file in sorted(self.path.iterdir()):
            index = len(self._files) > 1 and file.name == _LEFT[1]
            if file.is_file() and file.suffix in _COPIED and (index or file.name not in _LEFT):
                shutil.copyfile(file, folder / file.name)
        config = folder / "config.json"
        if config.is_file() and len(dtypes) == 1:
            # Loaded with dtype="auto", the weights should be those that training left.
            known = json.loads(config.read_text(encoding="utf-8"))
            for key in ("dtype", "torch_dtype"):
                if isinstance(known.get(key), str):
                    known[key] = next(iter(dtypes))
            config.write_text(json.dumps(known, indent=2) + "\n", encoding="utf-8")


def _opened(file: Path) -> Any:
    from safetensors import SafetensorError, safe_open

    try:
        return safe_open(file, framework="pt")
    except (SafetensorError, OSError) as error:
        raise ValueError(f"base {file} cannot be read as safetensors: {error}") from None


def _files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise ValueError(f"base {path} does not exist: give a folder or a safetensors file")
    index = path / "model.safetensors.index.json"
    if (path / "adapter_config.json").is_file():
        names = ["adapter_model.safetensors"]
    elif index.is_file():
        try:
            names = sorted(
                set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
            )
        except (ValueError, KeyError, AttributeError, TypeError):
            raise ValueError(f"base {path} has an index of shards that makes no sense") from None
    else:
        names = ["model.safetensors"]
    for name in names:
        if Path(str(name)).name != name or not (path / name).is_file():
            raise ValueError(
                f"base {path} has no file {name!r}: give a folder with weights as safetensors"
            )
    return [path / name for name in names]
