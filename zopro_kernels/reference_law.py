"""The noise law in plain PyTorch: the oracle every other backend is compared with, bit by bit.

Mirrors csrc/include/zopro/noise.h function by function, in 64-bit integers where C++ has 32.
Source: Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC'11 (Philox4x32-10).
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

from .gaussian_table import UPPER_HALF

LAW = 1
SIGN_TILE = 4096
TABLE_UNIT = 2.0**-20
DOT_VN_SCALE = 2.0**40
DOT_NN_SCALE = 2.0**24
DOMAINS = {"rademacher": 0, "gaussian": 1, "rounding": 2}
DOMAINS |= {"sketch_sign": 3, "sketch_place": 4}  # sketch_law.py
_MASK = 0xFFFFFFFF


def philox4x32_10(
    counter: list[Tensor | int], key: tuple[Tensor | int, Tensor | int]
) -> list[Tensor]:
    """Ten rounds of Philox on four int64 tensors (or ints) that hold uint32 values.

    Returns four int64 tensors of the counter's common shape, each in [0, 2^32).
    """
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(10):
        # int64 products wrap modulo 2^64, which leaves all 64 bits right.
        p0, p1 = c0 * 0xD2511F53, c2 * 0xCD9E8D57
        h0, h1 = (p0 >> 32) & _MASK, (p1 >> 32) & _MASK
        c0, c1, c2, c3 = h1 ^ c1 ^ k0, p1 & _MASK, h0 ^ c3 ^ k1, p0 & _MASK
        k0, k1 = (k0 + 0x9E3779B9) & _MASK, (k1 + 0xBB67AE85) & _MASK
    return [c0, c1, c2, c3]


def random_words(
    block: Tensor, domain: str, seed: int | Tensor, param: int, stream: int | Tensor
) -> Tensor:
    """Philox words of the int64 tensor `block` [n]: int64 [n, 4]. 0-dim tensors are int64."""
    low, high = block & _MASK, (block >> 32) | (DOMAINS[domain] << 29)
    words = philox4x32_10(
        [low, high, torch.full_like(low, param), torch.zeros_like(low) + (stream & _MASK)],
        (seed & _MASK, (seed >> 32) & _MASK),
    )
    return torch.stack(words, dim=-1)


@cache
def gaussian_table(device: torch.device) -> Tensor:
    """The law's table: fp32 [2048], multiples of 2^-20, antisymmetric."""
    upper = torch.tensor(UPPER_HALF, dtype=torch.float64) * TABLE_UNIT
    return torch.cat([-upper.flip(0), upper]).float().to(device)


def _signs(index: Tensor, seed: int | Tensor, param: int, stream: int | Tensor) -> Tensor:
    # Elements of one tile row share calls: compute each distinct block once.
    block = (index >> 12) * 32 + ((index >> 3) & 31)
    distinct, place = torch.unique(block, return_inverse=True)
    words = random_words(distinct, "rademacher", seed, param, stream)[place]
    row, sub = (index >> 8) & 15, index & 7
    word = words.gather(1, (row >> 2).unsqueeze(1)).squeeze(1)
    bit = (word >> (8 * (row & 3) + sub)) & 1
    return 1.0 - 2.0 * bit.float()


def _eight_at_a_time(index: Tensor) -> tuple[Tensor, Tensor]:
    """Blocks of eight that cover the consecutive `index`, and where in them it begins."""
    first, last = int(index[0]) >> 3, int(index[-1]) >> 3
    return torch.arange(first, last + 1, device=index.device), index - first * 8


def _gaussians(index: Tensor, seed: int | Tensor, param: int, stream: int | Tensor) -> Tensor:
    blocks, place = _eight_at_a_time(index)
    words = random_words(blocks, "gaussian", seed, param, stream)
    halves = torch.stack([words >> 2, words >> 18], dim=-1).flatten(1) & 2047
    t = gaussian_table(index.device)[halves]  # [blocks, 8]
    for stride in (1, 2, 4):  # Hadamard butterflies; every sum is exact
        t = t.view(-1, 8 // (2 * stride), 2, stride)
        t = torch.stack([t[:, :, 0] + t[:, :, 1], t[:, :, 0] - t[:, :, 1]], dim=2)
    return t.reshape(-1)[place]


def noise(
    index: Tensor, distribution: str, seed: int | Tensor, param: int, stream: int | Tensor
) -> Tensor:
    """n at the consecutive elements `index` (int64 [n], n >= 1): fp32 [n]."""
    draw = {"rademacher": _signs, "gaussian": _gaussians}[distribution]
    return draw(index, seed, param, stream)


def rounding_bits(index: Tensor, seed: int | Tensor, param: int) -> Tensor:
    """The law's 16 random bits for the store of the consecutive elements `index`: int64 [n]."""
    blocks, place = _eight_at_a_time(index)
    words = random_words(blocks, "rounding", seed, param, 0)
    return torch.stack([words & 0xFFFF, words >> 16], dim=-1).reshape(-1)[place]


def _float_bits(x: Tensor) -> Tensor:
    return x.view(torch.int32).long() & _MASK


def _from_bits16(bits: Tensor, dtype: torch.dtype) -> Tensor:
    signed = torch.where(bits >= 0x8000, bits - 0x10000, bits)
    return signed.to(torch.int16).view(dtype)


def round_nearest(x: Tensor, dtype: torch.dtype) -> Tensor:
    """fp32 to `dtype`, ties to even; every NaN becomes 0x7FFF in the 16-bit types."""
    if dtype == torch.float32:
        return x
    nan = _from_bits16(torch.tensor(0x7FFF, device=x.device), dtype)
    return torch.where(torch.isnan(x), nan, x.to(dtype))


def round_stochastic(x: Tensor, dtype: torch.dtype, random16: Tensor) -> Tensor:
    """fp32 to `dtype`: up with probability (dropped part) / (unit), by 16 random bits each."""
    if dtype == torch.float32:
        return x
    u = _float_bits(x)
    sign, mag = (u >> 16) & 0x8000, u & 0x7FFFFFFF
    if dtype == torch.bfloat16:
        up = (u + random16) >> 16
        beyond = mag >= 0x7F800000
    else:
        k = 126 - (mag >> 23)  # bits dropped below 2^-14; units of 2^-24 are kept there
        significand = (mag & 0x7FFFFF) | 0x800000
        r = torch.where(k >= 16, random16 << (k - 16).clamp(0, 15), random16 >> (16 - k).clamp(0))
        small = torch.where(k > 31, 0, (significand + r) >> k.clamp(0, 63))
        normal = ((mag + (random16 >> 3)) >> 13) - (112 << 10)
        up = sign | torch.where(mag >= (113 << 23), normal, small)
        beyond = mag >= (143 << 23)
    return torch.where(beyond, round_nearest(x, dtype), _from_bits16(up & 0xFFFF, dtype))
