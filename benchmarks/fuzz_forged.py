"""Heads and records that no run wrote, under right checksums: what no accident makes."""

from __future__ import annotations

import copy
import math
import random
import struct
import zlib
from dataclasses import fields, is_dataclass
from functools import partial
from typing import Any

from fuzz_runs import Subject

from zopro.steplog import Step, layout
from zopro.steplog.coding import Coder

WHOLE = (0, 1, 2, 3, 300, 2**16 - 1, 2**16, 2**16 + 1, 2**31, 2**32 - 1, 2**63, 2**64 - 1)
REAL = (0.0, 1.0, -1.0, 1e-3, 5e-324, 1e38, 1e39, 1e308, math.inf, -math.inf, math.nan)
TEXT = ("", "../x", "inplace", "exact", "layerwise", "one_sided", "gaussian", "nearest", "0" * 64)


def forged_head(subject: Subject, r: random.Random) -> tuple[int, bytes]:
    """The head's text damaged under a checksum that is right; no record is the head's then."""
    data = subject.data
    length = int.from_bytes(data[12:16], "little")
    text = bytearray(data[16 : 16 + length])
    for _ in range(r.randint(1, 3)):
        at = r.randrange(len(text))
        text[at : at + r.randint(0, 3)] = r.choice(
            (b"9", b"-", b"{", b"]", b"null", b'"', b"1e999")
        )
    head = data[:12] + len(text).to_bytes(4, "little") + bytes(text)
    return 0, head + zlib.crc32(head).to_bytes(4, "little") + data[20 + length :]


def forged_records(subject: Subject, r: random.Random) -> tuple[int, bytes]:
    """How many records are still the run's own, and a log that goes on with others; most often all
    but one of these are true ones."""
    records = subject.log.records
    at = r.randrange(len(records))
    own = b"".join(subject.pieces[: at + 1])
    coder = partial(Coder, subject.log.head, layout.last_crc(own), records[:at])
    while True:
        try:
            return at, own + _followed(coder(), r.choice(FORGERIES)(records[at:], coder(), r))
        except (struct.error, OverflowError, TypeError, AttributeError, ValueError, IndexError):
            continue  # nothing that bytes can say


def _followed(coder: Coder, tail: list[Any]) -> bytes:
    """The bytes of `tail`, records or frames without a checksum, as `coder` goes on."""
    out = b""
    for record in tail:
        if isinstance(record, bytes):
            out += record + layout.CRC.pack(zlib.crc32(record, coder.crc))
            coder.crc = layout.last_crc(out)
        else:
            out += coder.encode(record)
            coder.take(record, layout.last_crc(out))
    return out


def changed(tail: list[Any], coder: Coder, r: random.Random) -> list[Any]:
    """One to three fields of the first record have other values."""
    record = tail[0]
    for _ in range(r.choice((1, 1, 2, 3))):
        record = _other(record, r)
    return [record, *tail[1:]]


def noise(tail: list[Any], coder: Coder, r: random.Random) -> list[Any]:
    """Bits of the first record's frame are flipped, its payload grows or shrinks."""
    frame = coder.encode(tail[0])[:-4]
    begin = 4 if frame[2] & 128 else 3  # of the payload: lengths have one byte or two
    kind, payload = bytearray(frame[:2]), bytearray(frame[begin:])
    if r.random() < 0.3:
        payload[:] = r.randbytes(r.choice((0, 1, 2, 7, 8, 9, 12, 16, 17, 48, 60)))
    for _ in range(r.randint(1, 4)):
        part = r.choice((kind, payload, payload)) or kind
        part[r.randrange(len(part))] ^= 1 << r.randrange(8)
    return [bytes(kind) + _leb128(len(payload)) + bytes(payload), *tail[1:]]


def _leb128(n: int) -> bytes:
    return bytes((n,)) if n < 128 else bytes((n & 127 | 128,)) + _leb128(n >> 7)


def moved(tail: list[Any], coder: Coder, r: random.Random) -> list[Any]:
    """Records are exchanged, missing or doubled."""
    out, i, j = list(tail), r.randrange(len(tail)), r.randrange(len(tail))
    way = r.randrange(3)
    if way == 0:
        out[i], out[j] = out[j], out[i]
    elif way == 1:
        del out[i]
    else:
        out.insert(i, out[j])
    return out


def busy(tail: list[Any], coder: Coder, r: random.Random) -> list[Any]:
    """A step has many estimates, and the passes for them."""
    record = _with(tail[0], "estimates", r.choice((2, 5, 100)))
    return [_with(record, "passes", record.passes + 1000), *tail[1:]]


FORGERIES = (changed, changed, noise, moved, busy)


def _with(record: Step, name: str, value: Any) -> Step:
    """`record` with another field, whatever its own checks say."""
    record = copy.copy(record)
    getattr(record, name)
    object.__setattr__(record, name, value)
    return record


def _other(value: Any, r: random.Random) -> Any:
    """A value much like `value`, or at the edge of what its type holds."""
    if is_dataclass(value):
        name = r.choice(fields(value)).name
        return _with(value, name, _other(getattr(value, name), r))
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value + r.choice((-1, 1)) if r.random() < 0.3 else r.choice(WHOLE)
    if isinstance(value, float):
        return math.nextafter(value, r.choice(REAL)) if r.random() < 0.3 else r.choice(REAL)
    if isinstance(value, str):
        return r.choice((value[1:], value[::-1], *TEXT))
    if not isinstance(value, tuple) or not value:
        return r.choice((None, 0.5, 7, "x", (1.0,)))
    at = r.randrange(len(value))
    middle = r.choice(((_other(value[at], r),), (_other(value[at], r),), (), (value[at],) * 2))
    return (*value[:at], *middle, *value[at + 1 :])
