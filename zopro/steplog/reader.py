"""Reading a step log: what is whole is read, a damaged tail is cut with its reason."""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import zopro_kernels as zk

from . import fields
from . import layout as f
from .coding import Coder


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
    scan, coder = _Scan(head), Coder(head, f.last_crc(data[:begin]))
    records, ends, at, reason = [], [], begin, None
    while at < len(data):
        try:
            record, end = coder.decode(data, at)
            _check_sizes(head, record)
            scan.take(record)
        except ValueError as error:
            reason = str(error)
            break
        records.append(record)
        ends.append(end)
        coder.take(record, f.last_crc(data[at:end]))
        at = end
    if reason is not None:
        reason = f"the last {len(data) - at:,} bytes, after step {scan.steps}, are cut: {reason}"
    return Log(path, head, records, begin, ends, reason)


def _read_head(data: bytes, name: str) -> tuple[f.Head, int]:
    if not data.startswith(f.MAGIC):
        raise ValueError(f"{name} is no step log: it does not begin with one's magic bytes")
    if len(data) < f.PREFIX.size:
        raise ValueError(f"{name} ends inside its head: nothing of this log can be used")
    _, version, _, length = f.PREFIX.unpack_from(data)
    if version != f.VERSION:
        raise ValueError(
            f"{name} has format version {version} where this zopro reads {f.VERSION}: read it with "
            "the version that wrote it"
        )
    end = f.PREFIX.size + length
    if end + 4 > len(data):
        raise ValueError(f"{name} ends inside its head: nothing of this log can be used")
    if f.CRC.unpack_from(data, end)[0] != zlib.crc32(data[:end]):
        raise ValueError(f"{name} has a damaged head (checksum): nothing of this log can be used")
    given = fields.loaded(data[f.PREFIX.size : end])
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
        self.steps, self.passes = head.steps, head.passes
        self.options, self.grouped = head.options, False
        self.explicit = False  # whether the passes of the step ahead are in records of their own
        self.moved = False  # whether the last record has some

    def take(self, record: f.Record) -> None:
        """Goes on by `record`; ValueError where it does not fit what went before."""
        if self.moved and not isinstance(record, f.Step | f.Mark | f.Resume):
            raise ValueError("passes that lead to no step")
        self.moved = isinstance(record, f.Moves)
        if isinstance(record, f.Step):
            self._step(record)
        elif isinstance(record, f.Mark | f.Resume):
            if record.steps != self.steps or record.passes < self.passes:
                raise ValueError("a mark out of order")
            self.passes = record.passes
            if isinstance(record, f.Resume):
                self.options, self.grouped, self.explicit = record.options, False, False
        elif isinstance(record, f.Moves):
            _check_finite((record.d, *(x for move in record.moves for x in move.scale)))
            self.explicit = True
        elif isinstance(record, f.Groups):
            _check_finite((*record.eps, *record.weight_decay))
            self.grouped = True

    def _step(self, step: f.Step) -> None:
        """In place a replay makes the passes of a step's estimates, however many it says it had."""
        if step.passes <= self.passes or not self.grouped:
            raise ValueError("a step out of order")
        sides = 2 if self.options.estimator == "two_sided" else 1
        passes = step.estimates * len(step.slopes) * sides  # the update's, unless one was ahead
        implied = self.options.restore == "inplace" and not self.explicit
        if implied and passes > step.passes - self.passes:
            raise ValueError("a step of more estimates than passes")
        _check_finite((*step.lr, step.d, step.next_d or 0.0))
        if not step.skipped:
            _check_finite(step.slopes)
        self.steps, self.passes, self.explicit = self.steps + 1, step.passes, False


def _check_finite(values: Iterable[float]) -> None:
    if not all(map(math.isfinite, values)):
        raise ValueError("numbers that are not finite")


def _check_sizes(head: f.Head, record: f.Record) -> None:
    if isinstance(record, f.Aim) and record.file and len(record.norms) != len(head.parameters):
        raise ValueError("targets of another number of parameters")
