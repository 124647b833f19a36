"""What a run folder says of how it was made: config.yaml, runs.jsonl.

config.yaml   the command's resolved options; `--config` takes it back
runs.jsonl    a line a start: command, time, versions, commit, machine, ranks
"""

from __future__ import annotations

import json
import os
import platform
import shlex
import time
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
import yaml
from transformers import TrainerCallback

from zopro.files import append, write_beside
from zopro.iterations.identity import commit

PACKAGES = ("zopro", "torch", "transformers", "trl", "peft", "accelerate", "datasets", "triton")


class Record(TrainerCallback):
    """Writes the record when the first trainer is made: by then the folder is a run's."""

    def __init__(self, folder: str, options: dict[str, Any], command: Sequence[str]) -> None:
        self._folder, self._options, self._command = Path(folder), options, list(command)
        self._written = False

    def on_init_end(self, args, state, control, **kwargs):
        if not self._written and args.process_index == 0:
            self.write()

    def write(self) -> None:
        """Writes config.yaml and appends to runs.jsonl."""
        self._written = True
        self._folder.mkdir(parents=True, exist_ok=True)
        text = yaml.safe_dump(self._options, sort_keys=False, allow_unicode=True)
        write_beside(self._folder / "config.yaml", text)
        append(self._folder / "runs.jsonl", json.dumps(described(self._command)) + "\n")


def described(command: Sequence[str]) -> dict[str, Any]:
    """The command, and what it runs on."""
    return {
        "command": shlex.join(["zopro", *command]),
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "commit": commit(),
        "versions": {name: _version(name) for name in PACKAGES},
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}",
        "threads": torch.get_num_threads(),
        "ranks": int(os.environ.get("WORLD_SIZE", "1")),
        "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
    }


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
