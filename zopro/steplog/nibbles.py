"""Integers in as few half bytes as they need, for what a record says of a step.

A signed 64-bit integer n is (n << 1) ^ (n >> 63), so that small ones of either sign are small; its
octal digits, the highest first, are half bytes, all but the last with the bit 8. A stream of odd
length ends with a half byte 0, which reads as one more integer 0.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

_GOES_ON = str.maketrans("01234567", "89abcdef")
_DIGITS = str.maketrans("89abcdef", "01234567")
_ONE = re.compile("[89a-f]{0,21}[0-7]")


def packed(numbers: Iterable[int]) -> bytes:
    """The stream of `numbers`, each within -2^63 .. 2^63 - 1."""
    words = []
    for n in numbers:
        *more, last = f"{(n << 1) ^ (n >> 63):o}"
        words.append("".join(more).translate(_GOES_ON) + last)
    text = "".join(words)
    return bytes.fromhex(text + "0" * (len(text) % 2))


def unpacked(data: bytes) -> list[int]:
    """The integers of a stream; ValueError where it ends inside one, or one has over 64 bits."""
    text, numbers, at = data.hex(), [], 0
    while at < len(text):
        found = _ONE.match(text, at)
        value = 2**64 if found is None else int(found[0].translate(_DIGITS), 8)
        if value >= 2**64:
            raise ValueError("an integer that does not end, or of more than 64 bits")
        numbers.append((value >> 1) ^ -(value & 1))
        at = found.end()
    return numbers
