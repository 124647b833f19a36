"""Records of a step log as bytes and back; the differences are those of implied.py."""

from __future__ import annotations

import itertools
import struct
import zlib
from collections.abc import Callable, Iterable
from dataclasses import asdict
from typing import Any

from .. import auto_eps
from . import fields
from . import layout as f
from .implied import Implied, difference, same_bits, shifted, wrapped
from .nibbles import packed, unpacked

SKIPPED, APART, AHEAD, LR, LR_EACH = 1, 2, 4, 8, 16  # flags of a step
EPS, WEIGHT_DECAY, MAXIMIZE = 1, 2, 4  # of options: what follows
KINDS = {f.Step: f.STEP, f.Groups: f.OPTIONS, f.Aim: f.TARGETS, f.Moves: f.MOVES, f.Mark: f.MARK,
         f.Resume: f.RESUME}  # fmt: skip
FLAGS = {f.STEP: 31, f.OPTIONS: 7}  # that a record of the kind may have
_MARK = struct.Struct("<QQ32s")


class Coder:
    """Writes or reads the records of a log one after the other: `take` each that counts.

    It begins after the head or after `records`, whichever ends with `crc`.
    """

    def __init__(self, head: f.Head, crc: int, records: Iterable[f.Record] = ()) -> None:
        self.implied, self.crc = Implied(head), crc
        for record in records:
            self.implied.take(record)

    def take(self, record: f.Record, crc: int) -> None:
        """`record`, which ends with `crc`, is in the log."""
        self.implied.take(record)
        self.crc = crc

    def encode(self, record: f.Record) -> bytes:
        """The bytes of `record` as the next one."""
        kind = KINDS[type(record)]
        flags, payload = _WRITERS[kind](self.implied, record)
        data = bytes((kind, flags)) + _length(len(payload)) + payload
        return data + f.CRC.pack(zlib.crc32(data, self.crc))

    def decode(self, data: bytes, at: int) -> tuple[f.Record, int]:
        """The record at `at` of `data`, and where it ends; ValueError says why there is none."""
        length, start = _length_at(data, at + 2)
        end = start + length + 4
        if end > len(data):
            raise ValueError("a record is not finished")
        if f.CRC.unpack_from(data, end - 4)[0] != zlib.crc32(data[at : end - 4], self.crc):
            raise ValueError("a record is damaged (checksum)")
        kind, flags = data[at], data[at + 1]
        if kind not in _READERS or flags & ~FLAGS.get(kind, 0):
            raise ValueError("a record of no known kind")
        return _READERS[kind](self.implied, flags, data[start : end - 4]), end


def _length(n: int) -> bytes:
    """LEB128: seven bits a byte, the lowest first, all but the last with the bit 128."""
    out = bytearray()
    while n > 127:
        out.append(n & 127 | 128)
        n >>= 7
    return bytes((*out, n))


def _length_at(data: bytes, at: int) -> tuple[int, int]:
    value = 0
    for i, byte in enumerate(data[at : at + 5]):
        value |= (byte & 127) << 7 * i
        if byte < 128:
            return value, at + i + 1
    raise ValueError("a record is not finished")


def _of_step(now: Implied, r: f.Step) -> tuple[int, bytes]:
    """K slopes; then lr, d, next_d, passes, estimates, as far as they are not as implied."""
    flags = SKIPPED * r.skipped | APART * r.apart | AHEAD * (r.next_d is not None)
    numbers = []
    if not same_bits(r.lr, now.lr.last):
        flags |= LR | LR_EACH * (len(r.lr) > 1)
        numbers = now.lr.differences(r.lr)
    rest = [difference(r.d, now.d())]
    if r.next_d is not None:
        rest.append(difference(r.next_d, now.next_d(r.d)))
    rest += [wrapped(r.passes - now.passes - now.rise), r.estimates - now.estimates]
    while rest and rest[-1] == 0:
        rest.pop()
    return flags, struct.pack(f"<{len(r.slopes)}d", *r.slopes) + packed(numbers + rest)


def _step(now: Implied, flags: int, payload: bytes) -> f.Step:
    count = now.options.num_directions
    if len(payload) < 8 * count or (flags & LR_EACH and now.groups == 1):
        raise ValueError("a step of another number of directions")
    ahead = flags & AHEAD
    each = (now.groups if flags & LR_EACH else 1) if flags & LR else 0
    numbers = _numbers(payload[8 * count :], each, 4 if ahead else 3)
    rest = iter(numbers[each:])
    d = shifted(now.d(), next(rest))
    return f.Step(
        step=now.steps,
        lr=now.lr.values(numbers[:each]) if each else now.lr.last,
        d=d,
        next_d=shifted(now.next_d(d), next(rest)) if ahead else None,
        passes=(now.passes + now.rise + next(rest)) % 2**64,
        estimates=now.estimates + next(rest),
        slopes=struct.unpack_from(f"<{count}d", payload),
        skipped=bool(flags & SKIPPED),
        apart=bool(flags & APART),
    )


def _numbers(data: bytes, needed: int, more: int) -> list[int]:
    """`needed` integers and `more`, of which those at the end that are 0 may be missing."""
    numbers = unpacked(data)
    if len(numbers) < needed or any(numbers[needed + more :]) or len(numbers) > needed + more + 1:
        raise ValueError("a record of another length")
    return numbers[: needed + more] + [0] * (needed + more - len(numbers))


def _of_groups(now: Implied, r: f.Groups) -> tuple[int, bytes]:
    """eps, weight_decay, maximize of all groups, those of the three that have changed."""
    flags, numbers = 0, []
    for flag, curve, values in (
        (EPS, now.eps, r.eps),
        (WEIGHT_DECAY, now.weight_decay, r.weight_decay),
    ):
        if not same_bits(values, curve.last):
            flags |= flag
            numbers += curve.differences(values)
    if r.maximize != now.maximize:
        flags |= MAXIMIZE
        numbers += map(int, r.maximize)
    return flags, packed(numbers)


def _groups(now: Implied, flags: int, payload: bytes) -> f.Groups:
    each = now.groups
    numbers = iter(_numbers(payload, each * (flags & 7).bit_count(), 0))

    def part(flag: int, known: tuple, made: Callable[[list[int]], tuple]) -> tuple:
        return made(list(itertools.islice(numbers, each))) if flags & flag else known

    return f.Groups(
        eps=part(EPS, now.eps.last, now.eps.values),
        weight_decay=part(WEIGHT_DECAY, now.weight_decay.last, now.weight_decay.values),
        maximize=part(MAXIMIZE, now.maximize, lambda found: tuple(map(bool, found))),
    )


def _of_moves(now: Implied, r: f.Moves) -> tuple[int, bytes]:
    """How many, d, then for each where, unless home the stream, and with a scale that of each group
    as a difference from the pass before or eps."""
    numbers, scale = [len(r.moves), difference(r.d, now.d())], now.eps.last
    for move in r.moves:
        numbers += [move.where] if move.where == f.HOME else [move.where, move.stream]
        if move.where in (f.FREE, f.CALIBRATION):
            numbers += map(difference, move.scale, scale)
            scale = move.scale
    return 0, packed(numbers)


def _moves(now: Implied, flags: int, payload: bytes) -> f.Moves:
    numbers, scale, moves = iter(unpacked(payload)), now.eps.last, []
    try:
        count, d = next(numbers), shifted(now.d(), next(numbers))
        while len(moves) < count:
            where = next(numbers)
            stream = _stream(now, where, next(numbers)) if where != f.HOME else 0
            if where in (f.FREE, f.CALIBRATION):
                scale = tuple([shifted(x, next(numbers)) for x in scale])
                moves.append(f.Move(where, stream, scale))
            else:
                moves.append(f.Move(where, stream))
    except StopIteration:
        raise ValueError("passes of another length") from None
    if count < 0 or list(numbers) not in ([], [0]):
        raise ValueError("passes of another length")
    return f.Moves(d, tuple(moves))


def _stream(now: Implied, where: int, stream: int) -> int:
    count = auto_eps.DIRECTIONS if where == f.CALIBRATION else now.options.num_directions
    if not f.HOME < where <= f.CALIBRATION or not 0 <= stream < count:
        raise ValueError("passes of another direction")
    return stream


def _of_mark(now: Implied, r: f.Mark) -> tuple[int, bytes]:
    """steps u64, passes u64, SHA-256."""
    return 0, _MARK.pack(r.steps, r.passes, bytes.fromhex(r.digest))


def _mark(now: Implied, flags: int, payload: bytes) -> f.Mark:
    if len(payload) != _MARK.size:
        raise ValueError("a mark of another length")
    steps, passes, digest = _MARK.unpack(payload)
    return f.Mark(steps, passes, digest.hex())


def _of_json(now: Implied, r: f.Aim | f.Resume) -> tuple[int, bytes]:
    """The dataclass's fields."""
    return 0, f.json_bytes(asdict(r))


def _json(kind: Any) -> Callable[[Implied, int, bytes], Any]:
    return lambda now, flags, payload: fields.made(kind, fields.loaded(payload))


_WRITERS = {f.STEP: _of_step, f.OPTIONS: _of_groups, f.TARGETS: _of_json, f.MOVES: _of_moves,
            f.MARK: _of_mark, f.RESUME: _of_json}  # fmt: skip
_READERS = {f.STEP: _step, f.OPTIONS: _groups, f.TARGETS: _json(f.Aim), f.MOVES: _moves,
            f.MARK: _mark, f.RESUME: _json(f.Resume)}  # fmt: skip
