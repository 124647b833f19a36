"""Files that are whole or not there, and a folder that one process at a time works in."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import re
import socket
from collections.abc import Iterator
from pathlib import Path

LOCK = "run.lock"
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def write_beside(path: Path, data: bytes | str, sync: bool = True) -> None:
    """Writes beside and renames: a reader sees the old file or the new one, never a part.

    path: its folder must exist. sync: also wait for the disk, against a loss of power. Raises
    OSError that names the file, with what was there before untouched.
    """
    beside = path.with_name(path.name + ".part")
    try:
        with open(beside, "wb") as file:
            file.write(data.encode() if isinstance(data, str) else data)
            if sync:
                file.flush()
                os.fsync(file.fileno())
        os.replace(beside, path)
        if sync:
            sync_one(path.parent)
    except OSError as error:
        with contextlib.suppress(OSError):
            beside.unlink()
        raise unwritable(path, error) from error


def sync_one(path: Path) -> None:
    """Waits until the disk has a file, or a folder's list of names."""
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sync_folder(folder: Path) -> None:
    """Waits until the disk has all of `folder`, and its name in the folder above."""
    for path in sorted(folder.rglob("*")):
        if not path.is_symlink():
            sync_one(path)
    sync_one(folder)
    sync_one(folder.parent)


@contextlib.contextmanager
def told(path: Path) -> Iterator[None]:
    """Inside, others write below `path`: what fails of it is raised as an OSError that says so."""
    try:
        yield
    except OSError as error:
        if error.errno is None:
            raise  # told already
        raise unwritable(Path(error.filename or path), error) from error
    except Exception as error:
        # safetensors, which the optimizer does without, has an exception and words of its own.
        number = re.search(r"os error (\d+)", str(error))
        if type(error).__name__ != "SafetensorError" or number is None:
            raise
        code = int(number[1])
        raise unwritable(path, OSError(code, os.strerror(code))) from error


def append(path: Path, text: str) -> None:
    """Appends in one write; OSError that names the file, which then is as it was before."""
    data = text.encode()
    try:
        with open(path, "ab", buffering=0) as file:
            size = os.fstat(file.fileno()).st_size
            try:
                if file.write(data) != len(data):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            except OSError:
                with contextlib.suppress(OSError):
                    file.truncate(size)
                raise
    except OSError as error:
        raise unwritable(path, error) from error


def unwritable(path: Path, error: OSError) -> OSError:
    """`error` as a sentence about `path`: what happened, and that what was there is still there."""
    why = error.strerror or str(error)
    if isinstance(error, FileNotFoundError):
        folder = str(path.parent)
        why = "it was removed" if path.parent.is_dir() else f"its folder {folder!r} is gone"
    hint = "make room" if error.errno in FULL else "make it writable"
    return OSError(
        f"{str(path)!r} cannot be written: {why}; {hint} and give the same command again, which "
        "goes on from what was written before"
    )


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Inside, `folder`, which must exist, is this process's: `run.lock` has its pid and host.

    Raises RuntimeError where another process has it. The lock is the kernel's (flock), so that of
    a killed process is gone with it: no file is ever stale.
    """
    path = folder / LOCK
    try:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise unwritable(path, error) from error
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RuntimeError(
                f"output_dir={str(folder)!r} is in use by {_owner(handle)}: wait for it to end, or "
                "name another folder"
            ) from None
        except OSError:
            pass  # a file system without locks: nothing holds, nothing is refused
        with contextlib.suppress(OSError):  # on a full disk the lock holds without its text
            os.ftruncate(handle, 0)
            os.pwrite(handle, json.dumps(_self()).encode(), 0)
        yield
    finally:
        os.close(handle)


def _self() -> dict[str, str | int]:
    return {"pid": os.getpid(), "host": socket.gethostname()}


def _owner(handle: int) -> str:
    try:
        held = json.loads(os.pread(handle, 4096, 0))
        return f"process {held['pid']} on {held['host']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"
