"""Comparison of stored bits, and Philox written a second time, naively."""

from __future__ import annotations

import torch
from torch import Tensor

_INT = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def assert_same_bits(actual: Tensor, expected: Tensor, what: str = "") -> None:
    """Fails naming the first element whose bits differ, with both in hexadecimal."""
    assert actual.dtype == expected.dtype and actual.shape == expected.shape, (
        f"{what}: {actual.dtype} {tuple(actual.shape)} against "
        f"{expected.dtype} {tuple(expected.shape)}"
    )
    size = actual.element_size()
    a, b = (x.detach().cpu().contiguous().view(_INT[size]).view(-1) for x in (actual, expected))
    differ = (a != b).nonzero().view(-1)
    if differ.numel():
        i, mask = int(differ[0]), (1 << 8 * size) - 1
        raise AssertionError(
            f"{what}: {differ.numel()} of {a.numel()} differ, first at {i}: "
            f"0x{int(a[i]) & mask:0{2 * size}x} against 0x{int(b[i]) & mask:0{2 * size}x}"
        )


def naive_philox(counter: tuple[int, int, int, int], key: tuple[int, int]) -> list[int]:
    """Philox4x32-10 in Python integers, after the paper's round function."""
    c, (k0, k1), mask = list(counter), key, 0xFFFFFFFF
    for _ in range(10):
        p0, p1 = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
        c = [(p1 >> 32) ^ c[1] ^ k0, p1 & mask, (p0 >> 32) ^ c[3] ^ k1, p0 & mask]
        k0, k1 = (k0 + 0x9E3779B9) & mask, (k1 + 0xBB67AE85) & mask
    return c
