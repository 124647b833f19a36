"""The sketch in plain PyTorch: where each element goes, with which sign, in which order.

Mirrors csrc/include/zopro/sketch.h. Source of the construction: count sketch (Charikar, Chen and
Farach-Colton, 2002; feature hashing, Weinberger et al., arXiv 0902.2206), moved block by block.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .reference_law import random_words

BLOCK = 128  # elements that one call gives signs to, and that go to one bucket of 128 sums
CHUNK = 1 << 17  # elements added up in fp32, in order, before their sums go on in fp64


def places(index: Tensor, seed: int, param: int, stream: int, dim: int) -> tuple[Tensor, Tensor]:
    """(where, sign) of the consecutive elements `index` (int64 [n], n >= 1): int64 [n] in
    [0, dim), fp32 [n] of +1 and -1."""
    first, last = int(index[0]) >> 7, int(index[-1]) >> 7
    block = torch.arange(first, last + 1)
    quads = torch.arange(first >> 2, (last >> 2) + 1)
    words = random_words(quads, "sketch_place", seed, param, stream).view(-1)
    words = words[first - (first >> 2) * 4 :][: len(block)]
    bucket, order = ((words >> 7) * (dim // BLOCK)) >> 25, words & 127
    signs = random_words(block, "sketch_sign", seed, param, stream)
    here, inside = (index >> 7) - first, index & 127
    bit = (signs[here, inside >> 5] >> (inside & 31)) & 1
    return BLOCK * bucket[here] + (inside ^ order[here]), 1.0 - 2.0 * bit.float()


def add_chunk(out: Tensor, x: Tensor, first: int, seed: int, param: int, stream: int) -> None:
    """Adds the sketch of `x` [n], elements first .. first + n - 1 of one chunk, to `out`, fp64
    [dim]: summed from the first element to the last in fp32, then widened."""
    index = torch.arange(first, first + x.numel())
    where, sign = places(index, seed, param, stream, out.numel())
    # On the host: there index_add_ goes from the first to the last, on a GPU as it comes.
    x = x.detach().to("cpu", torch.float32)
    sums = torch.zeros(out.numel()).index_add_(0, where, x * sign)
    out += sums.to(out.device, torch.float64)
