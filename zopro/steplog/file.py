"""The file of a step log: begun whole, continued after a check, grown by whole records."""

from __future__ import annotations

import logging
import os
import time
from dataclasses import replace
from pathlib import Path

from . import layout as f
from .reader import Log, read_log

logger = logging.getLogger(__name__)


class LogFile:
    """Appends records to `path`; each is one write, which is taken back where it fails."""

    def __init__(self, path: Path, fsync_seconds: float | None) -> None:
        self._path, self._every, self._synced = path, fsync_seconds, time.monotonic()
        self._file = self._crc = None
        path.parent.mkdir(parents=True, exist_ok=True)

    def begin(self, head: f.Head) -> None:
        """A new log; what was at its path keeps its bytes as `path`.old."""
        if self._path.exists():
            old = self._path.with_name(self._path.name + ".old")
            logger.warning("%s is of another run: it is renamed to %s", self._path, old.name)
            os.replace(self._path, old)
        data = f.encode_head(head)
        beside = self._path.with_name(self._path.name + ".part")
        with open(beside, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, self._path)
        self._open(f.last_crc(data))

    def go_on(self, now: f.Head) -> bool:
        """Continues the log at the path where `now`, the run's head if it began now, is a later
        moment of its run; cuts what lies beyond. False, and nothing changed, where it is not."""
        if not self._path.exists():
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
        size = self._path.stat().st_size
        if end < size:
            logger.warning("%s goes on after step %d: its last %d bytes are cut%s",
                           self._path, now.steps, size - end,
                           f" ({log.cut})" if log.cut else "")  # fmt: skip
        with open(self._path, "r+b") as file:
            file.seek(end - 4)
            crc = f.last_crc(file.read(4))
            file.truncate(end)
        self._open(crc)
        self.write(f.Resume(now.steps, now.passes, now.digest, now.seed, now.options))
        return True

    def write(self, record: f.Record) -> None:
        """Appends `record`. Raises OSError, with the file as it was before."""
        data = f.encode(record, self._crc)
        size = os.fstat(self._file.fileno()).st_size
        try:
            if (written := self._file.write(data)) != len(data):
                raise OSError(f"only {written} of {len(data)} bytes were written: is the disk full")
        except OSError as error:
            self._file.truncate(size)
            raise OSError(f"the step log {self._path} cannot be written: {error}") from error
        self._crc = f.last_crc(data)
        if self._every is not None and time.monotonic() - self._synced >= self._every:
            os.fsync(self._file.fileno())
            self._synced = time.monotonic()

    def close(self) -> None:
        """Hands everything to the disk where that was asked for."""
        if self._every is not None:
            os.fsync(self._file.fileno())
        self._file.close()

    def _open(self, crc: int) -> None:
        self._file, self._crc = open(self._path, "ab", buffering=0), crc  # noqa: SIM115


def _kept(log: Log, now: f.Head) -> int | None:
    """How many records precede the moment `now` in the same run; None where it is another's."""
    head = log.head

    def what(h: f.Head) -> tuple:
        parameters = tuple(replace(p, digest=head.digest) for p in h.parameters)
        return h.law, h.groups, parameters

    if what(head) != what(now):
        return None
    if now.steps == head.steps:
        same = (now.seed, now.passes, now.digest) == (head.seed, head.passes, head.digest)
        return 0 if same else None
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
