"""Backend "reference": the primitive and the reduction in plain PyTorch, on any device."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from . import reference_law as law
from .passes import COEFFS, DECAY, LIVE, PREV, Dots, Pass, PassSequence, V
from .stored import Int8Blocks, Stored

CHUNK = 1 << 18  # elements at a time: bounds the oracle's memory, cannot change a bit


def status() -> str:
    """Either "available" or, in a few words, why this backend cannot serve here."""
    return "available"


def supports(device: torch.device) -> bool:
    """Whether this backend works on tensors of `device`."""
    return device.type != "meta"


def _chunks(numel: int, offset: int, device: torch.device) -> Iterator[tuple[slice, Tensor]]:
    for start in range(0, numel, CHUNK):
        stop = min(start + CHUNK, numel)
        yield slice(start, stop), torch.arange(offset + start, offset + stop, device=device)


def _fp32(x: Stored, part: slice) -> Tensor:
    """Elements of prev or v as the pass counts them."""
    return (x.part(part.start, part.stop) if isinstance(x, Int8Blocks) else x[part]).float()


def add_noise_(p: Pass) -> None:
    """Performs the pass in place. Products and sums are separate fp32 operations."""
    for t, theta in enumerate(p.tensors):
        for part, index in _chunks(theta.numel(), p.offsets[t], theta.device):
            # 0-dim fp32 tensors: a Python float would multiply in double precision.
            acc = theta[part].float() * p.floats[t, DECAY]
            for k, (seed, stream) in enumerate(zip(p.seeds, p.streams)):
                n = law.noise(index, p.distribution, seed, p.params[t], stream)
                acc = acc + p.floats[t, COEFFS + k] * n
            if p.prev is not None:
                acc = acc + p.floats[t, PREV] * _fp32(p.prev[t], part)
            if p.v is not None:
                acc = acc + p.floats[t, V] * _fp32(p.v[t], part)
            stored = _store(acc, theta.dtype, p, index, p.params[t])
            theta[part] = torch.where(p.floats[t, LIVE] != 0.0, stored, theta[part])


def add_noise_sequence_(s: PassSequence) -> None:
    """Performs the passes in place, one after the other: what the other backends' bits must be."""
    for record in s.records:
        add_noise_(s.single(*record))


def _store(acc: Tensor, dtype: torch.dtype, p: Pass, index: Tensor, param: int) -> Tensor:
    if p.stochastic and dtype != torch.float32:
        return law.round_stochastic(acc, dtype, law.rounding_bits(index, p.integers[0], param))
    return law.round_nearest(acc, dtype)


def noise_dots(d: Dots) -> Tensor:
    """int64 [T, 2] beside the vectors: v.n in units of 2^-40 and n.n in units of 2^-24."""
    _, seed, stream = d.integers
    out = torch.zeros(len(d.vectors), 2, dtype=torch.int64, device=d.vectors[0].device)
    for t, v in enumerate(d.vectors):
        for part, index in _chunks(v.numel(), d.offsets[t], v.device):
            n = law.noise(index, d.distribution, seed, d.params[t], stream)
            out[t, 0] += (_fp32(v, part) * n * law.DOT_VN_SCALE).to(torch.int64).sum()
            out[t, 1] += (n * n * law.DOT_NN_SCALE).to(torch.int64).sum()
    return out
