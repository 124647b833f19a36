"""Reading a step log: what is whole is read, a damaged tail is cut with its reason."""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import zopro_kernels as zk

from . import fields
from . import layout as f


@dataclass
class Log:
    """A log's whole part: `ends[i]` is the offset after record i, `cut` says what was left out."""

    path: Path | None
    head: f.Head
    records: list[f.Record]
    begin: int  # offset of the first record
    ends: list[int]
    cut: str | None

    @property
    def steps(self) -> int:
        """The optimizer's step count after the last record."""
        return self.head.steps + sum(isinstance(r, f.Step) for r in self.records)

    @property
    def size(self) -> int:
        """Bytes of the whole part."""
        return self.ends[-1] if self.ends else self.begin


def read_log(source: str | Path | bytes) -> Log:
    """The log in a file (or its bytes). A truncated or damaged tail is left out: see Log.cut.

    Raises ValueError for what is no step log, a damaged head, another format or noise law, and
    OSError for a file that cannot be read.
    """
    path = None if isinstance(source, bytes) else Path(source)
    data = source if path is None else path.read_bytes()
    head, begin = _read_head(data, "log" if path is None else str(path))
    scan = _Scan(head)
    records, ends, crc, at, reason = [], [], f.last_crc(data[:begin]), begin, None
    while at < len(data):
        try:
            record, end = _read_record(data, at, crc, scan)
        except ValueError as error:
            reason = str(error)
            break
        records.append(record)
        ends.append(end)
        crc, at = f.last_crc(data[at:end]), end
    if reason is not None:
        reason = f"the last {len(data) - at:,} bytes, after step {scan.steps}, are cut: {reason}"
    return Log(path, head, records, begin, ends, reason)


def _read_head(data: bytes, name: str) -> tuple[f.Head, int]:
    if not data.startswith(f.MAGIC):
        raise ValueError(f"{name} is no step log: it does not begin with one's magic bytes")
    if len(data) < f._PREFIX.size:
        raise ValueError(f"{name} ends inside its head: nothing of this log can be used")
    _, version, _, length = f._PREFIX.unpack_from(data)
    if version != f.VERSION:
        raise ValueError(
            f"{name} has format version {version} where this zopro reads {f.VERSION}: read it with "
            "the version that wrote it"
        )
    end = f._PREFIX.size + length
    if end + 4 > len(data):
        raise ValueError(f"{name} ends inside its head: nothing of this log can be used")
    if f._CRC.unpack_from(data, end)[0] != zlib.crc32(data[:end]):
        raise ValueError(f"{name} has a damaged head (checksum): nothing of this log can be used")
    given = fields.loaded(data[f._PREFIX.size : end])
    if given.get("law") != zk.LAW:
        raise ValueError(
            f"{name} was written under noise law {given.get('law')!r}, this zopro_kernels has "
            f"law {zk.LAW}: replay it with the version that wrote it"
        )
    try:
        return fields.made(f.Head, given), end + 4
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} has a head that makes no sense: {error}") from None


class _Scan:
    """What the records read so far say of the next: its numbers and counts."""

    def __init__(self, head: f.Head) -> None:
        self.head, self.steps, self.passes = head, head.steps, head.passes
        self.options, self.grouped = head.options, False
        self.explicit = False  # whether the passes of the step ahead are in records of their own

    def take(self, kind: int, flags: int, count: int, payload: bytes) -> f.Record:
        """The record of `payload`; ValueError where it does not fit what went before."""
        if kind not in _READERS or (kind != f.STEP and (flags or count)) or flags > 15:
            raise ValueError("a record of no known kind")
        record = _READERS[kind](self, flags, count, payload)
        if isinstance(record, f.Step):
            if record.step != self.steps or record.passes <= self.passes or not self.grouped:
                raise ValueError("a step out of order")
            self._check_work(record)
            self.steps, self.passes = self.steps + 1, record.passes
            self.explicit = False
        elif isinstance(record, f.Mark | f.Resume):
            if record.steps != self.steps or record.passes < self.passes:
                raise ValueError("a mark out of order")
            self.passes = record.passes
            if isinstance(record, f.Resume):
                self.options, self.grouped, self.explicit = record.options, False, False
        elif isinstance(record, f.Moves):
            self.explicit = True
        return record

    def _check_work(self, step: f.Step) -> None:
        """In place a replay makes the passes of a step's estimates, however many it says it had."""
        sides = 2 if self.options.estimator == "two_sided" else 1
        passes = step.estimates * len(step.slopes) * sides  # the update's, unless one was ahead
        implied = self.options.restore == "inplace" and not self.explicit
        if implied and passes > step.passes - self.passes:
            raise ValueError("a step of more estimates than passes")
        _check_finite((*step.lr, step.d, step.next_d or 0.0))
        if not step.skipped:
            _check_finite(step.slopes)

    def step(self, flags: int, count: int, payload: bytes) -> f.Step:
        """K slopes, lr of the other groups and d of the step ahead where they differ."""
        more = self.head.groups - 1 if flags & f.LR_EACH else 0
        if count != self.options.num_directions or (flags & f.LR_EACH and not more):
            raise ValueError("a step of another number of directions")
        length = f._STEP.size + 8 * (count + more)
        if len(payload) != length and not (flags & f.AHEAD and len(payload) == length + 8):
            raise ValueError("a step of another length")
        step, passes, estimates, lr, d = f._STEP.unpack_from(payload)
        values = struct.unpack_from(f"<{count + more}d", payload, f._STEP.size)
        next_d = struct.unpack_from("<d", payload, length)[0] if len(payload) > length else d
        return f.Step(
            step, passes, estimates, (lr, *values[count:]), d, values[:count],
            bool(flags & f.SKIPPED), bool(flags & f.APART), next_d if flags & f.AHEAD else None,
        )  # fmt: skip

    def groups(self, flags: int, count: int, payload: bytes) -> f.Groups:
        """One entry a group."""
        groups = fields.made(f.Groups, fields.loaded(payload))
        if {len(groups.eps), len(groups.weight_decay), len(groups.maximize)} != {self.head.groups}:
            raise ValueError("options of another number of groups")
        self.grouped = True
        return groups

    def aim(self, flags: int, count: int, payload: bytes) -> f.Aim:
        """A file beside the log, or none."""
        aim = fields.made(f.Aim, fields.loaded(payload))
        if aim.file is not None and len(aim.norms) != len(self.head.parameters):
            raise ValueError("targets of another number of parameters")
        return aim

    def moves(self, flags: int, count: int, payload: bytes) -> f.Moves:
        """Rows of two lengths: only free ones have a scale a group."""
        groups, at, rows = self.head.groups, 8, []
        if len(payload) < 8:
            raise ValueError("passes of another length")
        while at < len(payload):
            if at + f._MOVE.size > len(payload):
                raise ValueError("passes of another length")
            where, stream, size, seed = f._MOVE.unpack_from(payload, at)
            at += f._MOVE.size
            more = groups if where == f.FREE else 0
            if where > f.FREE or at + 8 * more > len(payload):
                raise ValueError("passes of another length")
            if more and not stream < size <= f.MOST_DIRECTIONS:
                raise ValueError("passes of another direction")
            if where != f.FREE and stream >= self.options.num_directions:
                raise ValueError("passes of another direction")
            scale = struct.unpack_from(f"<{more}d", payload, at)
            at += 8 * more
            _check_finite(scale)
            rows.append(f.Move(where, stream, size, seed, scale))
        (d,) = struct.unpack_from("<d", payload)
        _check_finite((d,))
        return f.Moves(d, tuple(rows))

    def mark(self, flags: int, count: int, payload: bytes) -> f.Mark:
        """The weights' digest."""
        if len(payload) != f._MARK.size:
            raise ValueError("a mark of another length")
        steps, passes, digest = f._MARK.unpack(payload)
        return f.Mark(steps, passes, digest.hex())

    def resume(self, flags: int, count: int, payload: bytes) -> f.Resume:
        """The options of the process that goes on."""
        return fields.made(f.Resume, fields.loaded(payload))


def _check_finite(values: Iterable[float]) -> None:
    if not all(map(math.isfinite, values)):
        raise ValueError("numbers that are not finite")


_READERS = {f.STEP: _Scan.step, f.OPTIONS: _Scan.groups, f.TARGETS: _Scan.aim,
            f.MOVES: _Scan.moves, f.MARK: _Scan.mark, f.RESUME: _Scan.resume}  # fmt: skip


def _read_record(data: bytes, at: int, crc: int, scan: _Scan) -> tuple[f.Record, int]:
    """The record at `at`, and where the next begins; ValueError says why there is none."""
    if at + f._FRAME.size + 4 > len(data):
        raise ValueError("a record is not finished")
    kind, flags, count, length = f._FRAME.unpack_from(data, at)
    start = at + f._FRAME.size
    if start + length + 4 > len(data):
        raise ValueError("a record is not finished")
    end = start + length + 4
    if f._CRC.unpack_from(data, end - 4)[0] != zlib.crc32(data[at : end - 4], crc):
        raise ValueError("a record is damaged (checksum)")
    return scan.take(kind, flags, count, data[start : end - 4]), end
