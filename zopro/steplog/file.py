"""The file of a step log: begun whole, continued after a check, grown by whole records."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import itertools
import logging
import os
import time
from dataclasses import replace
from io import FileIO
from pathlib import Path

from ..files import sync_one, unwritable, write_beside
from . import layout as f
from .coding import Coder
from .reader import Log, read_log

logger = logging.getLogger(__name__)


class LogFile:
    """Appends records to `path`; each is one write, which is taken back where it fails.

    now: the head of a log that begins at this moment. What lies at the path goes on where `now` is
    a later moment of its run, and is cut there; anything else that is there is kept under the first
    free of `path`.old, `path`.old.1, ... Raises RuntimeError where another StepLog writes the file
    (a lock of the kernel's: a killed process leaves none), and OSError.
    """

    def __init__(self, path: Path, fsync_seconds: float | None, now: f.Head) -> None:
        self._path, self._every, self._synced = path, fsync_seconds, time.monotonic()
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = _locked(path)
        try:
            if not self._go_on(now):
                self._begin(now)
        except BaseException:
            self._file.close()
            raise

    def _begin(self, head: f.Head) -> None:
        if os.fstat(self._file.fileno()).st_size:
            old = _free(self._path)
            logger.warning("%s has another run, or moment of one: it is kept as %s",
                           self._path, old.name)  # fmt: skip
            write_beside(old, self._path.read_bytes())
            self._file.truncate(0)
        data = f.encode_head(head)
        self._append(data)
        self._coder = Coder(head, f.last_crc(data))
        self.sync()
        sync_one(self._path.parent)  # its name

    def _go_on(self, now: f.Head) -> bool:
        """False, and nothing changed, where the log is not of `now`'s run."""
        size = os.fstat(self._file.fileno()).st_size
        if not size:
            return False
        try:
            log = read_log(self._path)
        except ValueError as error:
            logger.warning("%s", error)
            return False
        kept = _kept(log, now)
        if kept is None:
            return False
        end = log.ends[kept - 1] if kept else log.begin
        if end < size:
            logger.warning("%s goes on after step %d: its last %d bytes are cut%s",
                           self._path, now.steps, size - end,
                           f" ({log.cut})" if log.cut else "")  # fmt: skip
        self._file.seek(end - 4)
        crc = f.last_crc(self._file.read(4))
        self._coder = Coder(log.head, crc, log.records[:kept])
        self._file.truncate(end)
        self.write(f.Resume(now.steps, now.passes, now.digest, now.seed, now.options))
        return True

    def write(self, record: f.Record) -> None:
        """Appends `record`. Raises OSError, with the file as it was before."""
        data = self._coder.encode(record)
        self._append(data)
        self._coder.take(record, f.last_crc(data))
        if self._every is not None and time.monotonic() - self._synced >= self._every:
            self.sync()

    def sync(self) -> None:
        """Waits until the disk has all that was written."""
        os.fsync(self._file.fileno())
        self._synced = time.monotonic()

    def close(self) -> None:
        """Hands everything to the disk where that was asked for."""
        if self._file.closed:
            return
        if self._every is not None:
            self.sync()
        self._file.close()

    def _append(self, data: bytes) -> None:
        state = os.fstat(self._file.fileno())
        try:
            if state.st_nlink == 0:  # a file that is removed takes writes without a word
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
            if self._file.write(data) != len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            with contextlib.suppress(OSError):
                self._file.truncate(state.st_size)
            raise unwritable(self._path, error) from error


def _locked(path: Path) -> FileIO:
    """`path`, made where it is not there, open for this process alone."""
    try:
        file = open(path, "a+b", buffering=0)  # noqa: SIM115
    except OSError as error:
        raise unwritable(path, error) from error
    try:
        fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        raise RuntimeError(
            f"path={str(path)!r} is being written by another StepLog: close() that one, or name "
            "another path"
        ) from None
    except OSError:
        pass  # a file system without locks: nothing holds, nothing is refused
    return file


def _free(path: Path) -> Path:
    """The first name beside `path` that nothing has."""
    names = itertools.chain([".old"], (f".old.{i}" for i in itertools.count(1)))
    return next(p for p in (path.with_name(path.name + end) for end in names) if not p.exists())


def _kept(log: Log, now: f.Head) -> int | None:
    """How many records precede the moment `now` in the same run; None where it is another's."""
    head = log.head

    def what(h: f.Head) -> tuple:
        parameters = tuple(replace(p, digest=head.digest) for p in h.parameters)
        return h.law, h.groups, parameters

    rest = head.frozen is None or now.frozen is None or head.frozen == now.frozen
    if what(head) != what(now) or not rest:
        return None
    if now.steps == head.steps:
        # Begun anew: what the log has of the run's steps is not this process's to cut.
        same = (now.seed, now.passes, now.digest) == (head.seed, head.passes, head.digest)
        return 0 if same and log.steps == head.steps else None
    steps, passes, seed, found = head.steps, head.passes, head.seed, None
    for i, record in enumerate(log.records):
        if isinstance(record, f.Step):
            steps, passes = record.step + 1, record.passes
        elif isinstance(record, f.Moves):
            passes += len(record.moves)
        elif isinstance(record, f.Resume):
            seed = record.seed
        if steps > now.steps or passes > now.passes:
            break
        at_moment = steps == now.steps and not isinstance(record, f.Groups | f.Aim)
        if at_moment and isinstance(record, f.Mark | f.Resume) and record.passes == now.passes:
            found = i + 1 if record.digest == now.digest else None
        elif at_moment:
            found = i + 1
    return found if seed == now.seed else None
