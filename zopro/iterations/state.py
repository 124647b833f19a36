"""What a run's folder says of the run, checked before anything is done with it.

A folder may come from anywhere: phases' names become paths, under which checkpoints are removed.
"""

from __future__ import annotations

import json
import logging
import re
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

logger = logging.getLogger(__name__)

PACKAGES = ("zopro", "torch", "transformers", "trl", "peft", "accelerate", "datasets")
PHASE = re.compile(r"\w+(\.\w+)*", re.ASCII)  # `start`, `0.policy`, `1.refine.3`: never `..`


def read_state(folder: Path) -> dict[str, Any]:
    """state.json: `done`, a list of phases, and `phase`, the one in progress or None.

    Raises ValueError, a sentence, for anything else, and for names that are no phase's.
    """
    state = _object(folder, "state.json")
    done, phase = state.get("done"), state.get("phase")
    if not isinstance(done, list):
        raise damaged(folder, "its state.json has no list of the phases that are done")
    for name in [*done, *([] if phase is None else [phase])]:
        if not isinstance(name, str) or not PHASE.fullmatch(name):
            raise damaged(folder, f"its state.json names a phase {str(name)[:40]!r}, which is none")
    return {"done": done, "phase": phase}


def read_config(folder: Path) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """config.json: the options that the run began with, the digests of its data by name, and what
    `identity` found (nothing, of a run from before it was kept).

    Warns of packages of other versions. Raises ValueError, a sentence, for anything else.
    """
    began = _object(folder, "config.json")
    for name in ("options", "data"):
        if not isinstance(began.get(name), dict):
            raise damaged(folder, f"its config.json has no object {name!r}")
    known = began.get("versions")
    for name, now in versions().items():
        before = known.get(name, now) if isinstance(known, dict) else now
        if before != now:
            logger.warning("the run in %s began with %s %s and goes on with %s: its end may have "
                           "other bits", folder, name, before, now)  # fmt: skip
    found = began.get("identity")
    return began["options"], began["data"], found if isinstance(found, dict) else {}


def versions() -> dict[str, str | None]:
    """The version of each package that a run's bits depend on; None: run from a checkout."""
    return {name: _version(name) for name in PACKAGES}


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _object(folder: Path, name: str) -> dict[str, Any]:
    try:
        found = json.loads((folder / name).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise damaged(folder, f"its {name} cannot be read ({error})") from error
    if not isinstance(found, dict):
        raise damaged(folder, f"its {name} is no JSON object")
    return found


def damaged(folder: Path, why: str) -> ValueError:
    """The refusal of a folder: why it holds no run that could go on."""
    return ValueError(f"output_dir={str(folder)!r} holds a damaged run: {why}; name a new folder")
