"""What the records of a step log so far imply of the next one, which tells differences from it.

Numbers are extrapolated by correctly rounded +, -, * and / of fp64 alone, in a fixed order: no
libm, whose last bits differ between machines, so that a reader finds on any what the writer had.
A difference is one of bits, so whatever is written comes back exactly; a schedule that all groups
share leaves a few units in the last place.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable

from . import layout as f

_DOUBLE, _INT = struct.Struct("<d"), struct.Struct("<q")
Numbers = tuple[float, ...]


def difference(value: float, implied: float) -> int:
    """Of the bits of two fp64, modulo 2^64, signed."""
    return wrapped(_bits(value) - _bits(implied))


def shifted(implied: float, by: int) -> float:
    """The fp64 whose `difference` from `implied` is `by`."""
    return _DOUBLE.unpack(_INT.pack(wrapped(_bits(implied) + by)))[0]


def wrapped(n: int) -> int:
    """n modulo 2^64, signed."""
    return (n + 2**63) % 2**64 - 2**63


def same_bits(a: Numbers, b: Numbers) -> bool:
    """Whether two lists are the same, signs of zeros included."""
    return len(a) == len(b) and all(map(_same, a, b))


class Curve:
    """A number a group over the steps: an lr, an eps or a weight_decay; `last` as last told, one
    entry where all groups share it."""

    def __init__(self, count: int) -> None:
        self.last: Numbers = (0.0,) * count
        self._before = self.last

    def take(self, values: Numbers) -> None:
        """Goes on to `values`, [1] or [groups]."""
        if values is self.last and values is self._before:
            return
        self._before, self.last = self.last, values

    def differences(self, values: Numbers) -> list[int]:
        """Of `values` from what is implied of as many, in order."""
        found = []

        def given(g: int, implied: float) -> float:
            found.append(difference(values[g], implied))
            return values[g]

        self._each(len(values), given)
        return found

    def values(self, differences: list[int]) -> Numbers:
        """Those of which `differences` tells."""
        return self._each(len(differences), lambda g, implied: shifted(implied, differences[g]))

    def _each(self, count: int, value: Callable[[int, float], float]) -> Numbers:
        last, before = _wide(self.last, count), _wide(self._before, count)
        leader, out = None, []
        for g in range(count):
            if leader is None:
                implied = onward(last[g], before[g])
            else:
                implied = _along(leader, g, last, before, out[leader])
            out.append(value(g, implied))
            if out[g] != last[g]:
                leader = g  # the next groups are expected to move as this one
        return tuple(out)


def onward(last: float, before: float) -> float:
    """The next of a number that goes on as it went."""
    return _finite(last + (last - before), last)


def _along(r: int, g: int, last: Numbers, before: Numbers, now: float) -> float:
    """Group g's number where group r's is `now`: as they rose together before, a + b f; where r had
    not moved, in the same ratio."""
    if last[g] == last[r] and before[g] == before[r]:
        return now
    rise = last[r] - before[r]
    if rise != 0.0:
        return _finite(last[g] + (now - last[r]) * ((last[g] - before[g]) / rise), last[g])
    return last[g] if last[r] == 0.0 else _finite(last[g] * (now / last[r]), last[g])


def _finite(value: float, otherwise: float) -> float:
    return value if math.isfinite(value) else otherwise


def _wide(values: Numbers, count: int) -> Numbers:
    return values if len(values) == count else values[:1] * count


def _bits(value: float) -> int:
    return _INT.unpack(_DOUBLE.pack(value))[0]


def _same(a: float, b: float) -> bool:
    return _bits(a) == _bits(b)


class Implied:
    """The state of a log after some of its records, the same for writer and reader."""

    def __init__(self, head: f.Head) -> None:
        self.options, self.groups = head.options, head.groups
        self.steps, self.passes, self.rise, self.estimates = head.steps, head.passes, 0, 1
        self.lr, self.eps, self.weight_decay = Curve(1), Curve(head.groups), Curve(head.groups)
        self.maximize = (False,) * head.groups
        self._d, self._d_before = 0.0, 0.0
        self._d_told: float | None = None  # the next step's, where a record has said it

    def d(self) -> float:
        """Of the next step: what was told of it, or what goes on as it went, down to 0."""
        if self._d_told is not None:
            return self._d_told
        return max(0.0, onward(self._d, self._d_before))

    def next_d(self, d: float) -> float:
        """Of the step after one of `d`."""
        return max(0.0, onward(d, self._d))

    def take(self, record: f.Record) -> None:
        """Goes on by `record`."""
        if isinstance(record, f.Step):
            self.steps, self.estimates = record.step + 1, record.estimates
            self.passes, self.rise = record.passes, record.passes - self.passes
            self._d_before, self._d, self._d_told = self._d, record.d, record.next_d
            self.lr.take(record.lr)
        elif isinstance(record, f.Groups):
            self.eps.take(record.eps)
            self.weight_decay.take(record.weight_decay)
            self.maximize = record.maximize
        elif isinstance(record, f.Moves):
            self._d_told = record.d
        elif isinstance(record, f.Mark | f.Resume):
            self.passes = record.passes
            if isinstance(record, f.Resume):
                self.options, self._d_told = record.options, None
