"""The law itself: known answers, the tables, and the reference against a naive second writing."""

from __future__ import annotations

import math
import random
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from kernels.bits import naive_philox
from scipy import stats

import zopro_kernels as zk
from zopro_kernels import reference_law as law
from zopro_kernels.gaussian_table import UPPER_HALF

ROOT = Path(__file__).parents[2]
ONES = 0xFFFFFFFF


@pytest.mark.parametrize(
    ("counter", "key", "words"),
    [  # the published vectors of Random123 (kat_vectors, philox4x32 with 10 rounds)
        ((0,) * 4, (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        ((ONES,) * 4, (ONES, ONES), (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ],
)
def test_philox_known_answers(counter, key, words):
    tensors = [torch.tensor([c]) for c in counter]
    assert tuple(int(w) for w in law.philox4x32_10(tensors, key)) == words
    assert tuple(naive_philox(counter, key)) == words


def naive_noise(i: int, distribution: str, seed: int, param: int, stream: int) -> float:
    key = (seed & ONES, seed >> 32)
    if distribution == "rademacher":
        block, bit = (i >> 12) * 32 + (i >> 3) % 32, 8 * ((i >> 8) % 16) + i % 8
        words = naive_philox((block & ONES, block >> 32, param, stream), key)
        return -1.0 if words[bit // 32] >> (bit % 32) & 1 else 1.0
    block = i >> 3
    words = naive_philox((block & ONES, (block >> 32) | 1 << 29, param, stream), key)
    table = [-u for u in reversed(UPPER_HALF)] + list(UPPER_HALF)
    total = 0
    for m in range(8):  # row i % 8 of the Hadamard matrix has sign (-1)^popcount(row & column)
        half = words[m // 2] >> (16 * (m % 2)) & 0xFFFF
        sign = -1 if ((i % 8) & m).bit_count() % 2 else 1
        total += sign * table[half >> 2 & 2047]
    return total / 2**20


@pytest.mark.parametrize("distribution", ["rademacher", "gaussian"])
def test_reference_is_the_law_as_written(distribution):
    rng = random.Random(0)
    for _ in range(60):
        seed, param, stream = (rng.getrandbits(b) for b in (64, 32, 32))
        offset = rng.getrandbits(rng.choice([3, 13, 34, 62]))
        n = zk.noise(
            9, seed, param=param, stream=stream, offset=offset,
            distribution=distribution, backend="reference",
        )  # fmt: skip
        expected = [naive_noise(offset + j, distribution, seed, param, stream) for j in range(9)]
        assert n.tolist() == expected


def test_header_mirror_and_script_hold_one_table():
    include = (ROOT / "csrc/include/zopro/gaussian_table.inc").read_text()
    numbers = re.findall(r"\d+", include.split("\n", 1)[1])
    assert tuple(map(int, numbers)) == UPPER_HALF
    header = (ROOT / "csrc/include/zopro/noise.h").read_text()
    assert f"LAW = {law.LAW};" in header and f"SIZE = {2 * len(UPPER_HALF)};" in header


def test_gaussian_table_has_the_moments_the_header_states():
    t = [u / 2**20 * math.sqrt(8) for u in UPPER_HALF]
    for power, moment in ((2, 1.0), (4, 3.0), (6, 15.0)):
        assert sum(x**power for x in t) / len(t) == pytest.approx(moment, rel=1e-6)
    # All sums of eight stay below 2^24 units: fp32 adds them exactly, in any order.
    assert 8 * max(UPPER_HALF) < 2**24


def test_gaussian_tail_is_as_short_as_the_header_states():
    """The law of a sum of eight table entries, by convolution on a grid of 2^-12."""
    size, unit = 1 << 17, 2.0**-12
    table = np.array([-u for u in UPPER_HALF] + list(UPPER_HALF)) / 2**20
    one = np.bincount(np.rint(table / unit).astype(int) % size, minlength=size) / len(table)
    eight = np.fft.irfft(np.fft.rfft(one) ** 8, size)
    x = ((np.arange(size) + size // 2) % size - size // 2) * unit
    for sigma, short in ((4, 0.0001), (5, 0.008), (6, 0.05)):
        ratio = eight[x > sigma].sum() / stats.norm.sf(sigma + unit / 2)
        assert 1 - ratio == pytest.approx(short, rel=0.15)


def test_streams_parameters_and_seeds_separate():
    base = dict(seed=5, param=1, stream=2)
    for distribution in ("rademacher", "gaussian"):
        drawn = [zk.noise(4096, distribution=distribution, **base)]
        for name in base:
            drawn.append(zk.noise(4096, distribution=distribution, **{**base, name: 9}))
        drawn.append(zk.noise(4096, distribution=distribution, **{**base, "seed": 5 + 2**32}))
        correlation = torch.corrcoef(torch.stack(drawn))
        assert (correlation - torch.eye(5)).abs().max() < 6 / 64  # 6 / sqrt(4096)


def test_global_generators_are_left_alone():
    before = torch.get_rng_state()
    zk.noise(1000, 3, distribution="gaussian")
    assert torch.equal(before, torch.get_rng_state())
