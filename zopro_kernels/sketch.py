"""Sketches of weights: some thousand numbers that keep inner products, in one pass."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from types import ModuleType

import torch
from torch import Tensor

from . import cpu, cuda, sketch_cpu, sketch_cuda, sketch_reference, sketch_triton, triton_backend
from .arguments import check_extent, check_tensors, integers
from .dispatch import choose
from .sketch_law import BLOCK, CHUNK
from .sketch_pass import Sketch
from .sketch_pieces import contiguous_pieces
from .transfer import common_device

LARGEST = 1 << 14  # numbers of a sketch: 64 KiB of shared memory is what every GPU has


def sketch(
    tensors: Sequence[Tensor],
    seed: int,
    dim: int = 8192,
    *,
    params: Sequence[int] | None = None,
    offsets: Sequence[int] | None = None,
    groups: Sequence[int] | None = None,
    stream: int = 0,
    backend: str | None = None,
) -> Tensor:
    """S theta: a random projection of `tensors` (any shape and strides; fp32, bf16 or fp16, read
    only) to `dim` numbers, fp64 [dim] on their device (on the CPU where they have several).

    A count sketch whose hash moves blocks: each block of 128 consecutive elements is added, with a
    random sign an element and in a randomly turned order, to a random one of dim / 128 buckets.
    S is linear and a function of (seed, stream, param, element) alone: sketch(a) - sketch(b) is the
    sketch of a - b, and sketches under other seeds or streams do not compare. Inner products are
    unbiased, E <S x, S y> = <x, y>, and

        var <S x, S y> <= (||x||^2 ||y||^2 + <x, y>^2 - 2 sum_i x_i^2 y_i^2) / dim,

    so the standard error of a cosine c is (1 - c^2) / sqrt(dim): 0.011 at 8,192. The bound holds
    for any x and y. Where the energy is spread the error is normal; where a few elements hold it,
    two of them meet in one number with probability 1 / dim, and the error is then large: rare
    outliers instead of a steady error, the same variance. Elements of one block never meet.

    params, offsets: as for `add_noise_`, one int a tensor (default: its place; 0); shards' sketches
    add up to the whole's. groups: one int a tensor, G = 1 + the largest: the result is [G, dim],
    row g the sum over the tensors of group g, still in one pass.
    dim: a multiple of 128 from 128 to 16,384; a sketch folded in k equal parts, added up, is one of
    dim / k numbers under the same law.
    Sums run in fp32, in order, over chunks of 2^17 elements that end at multiples of it, and in
    fp64 over the chunks: the bits are the same on every backend, for any strides and number of
    threads, and for shards that are cut at such multiples; other cuts change the last bits.

    Raises ValueError or TypeError as `add_noise_` does.
    """
    tensors = check_tensors("tensors", tensors)
    count = len(tensors)
    (seed,), (stream,) = integers("seed", [seed], 1, 2**64), integers("stream", [stream], 1, 2**32)
    (dim,) = integers("dim", [dim], 1, 2**63)
    if dim % BLOCK or not BLOCK <= dim <= LARGEST:
        raise ValueError(f"dim={dim} is not allowed: use a multiple of {BLOCK} up to {LARGEST}")
    params = integers("params", range(count) if params is None else params, count, 2**32)
    offsets = integers("offsets", [0] * count if offsets is None else offsets, count, 2**63)
    check_extent(tensors, offsets)
    rows = integers("groups", [0] * count if groups is None else groups, count, 2**31)
    home = common_device(tensors)
    shape = (max(rows, default=0) + 1, dim)
    outs = {d: torch.zeros(shape, dtype=torch.float64, device=d) for d in
            {t.device for t in tensors}}  # fmt: skip
    for device, out in outs.items():
        add = _implementation(choose(device, backend))
        for part in _parts(tensors, device, params, offsets, rows):
            add(Sketch(*part, seed, stream, out))
    total = torch.zeros(shape, dtype=torch.float64, device=home)
    for out in outs.values():
        total += out.to(home)
    return total[0] if groups is None else total


def _parts(
    tensors: list[Tensor],
    device: torch.device,
    params: list[int],
    offsets: list[int],
    rows: list[int],
) -> Iterator[tuple[list[Tensor], list[int], list[int], list[int]]]:
    """(tensors, params, offsets, rows) of one dtype, flat, in order; what is not contiguous is
    copied a chunk at a time."""
    waiting: tuple[list, ...] = ([], [], [], [])
    for t, tensor in enumerate(tensors):
        if tensor.device != device or not tensor.numel():
            continue
        for start, piece in contiguous_pieces(tensor.detach(), offsets[t], CHUNK):
            alone = not tensor.is_contiguous()  # the copy is used before the next is made
            if waiting[0] and (alone or waiting[0][0].dtype != piece.dtype):
                yield waiting
                waiting = ([], [], [], [])
            for held, new in zip(waiting, (piece, params[t], offsets[t] + start, rows[t])):
                held.append(new)
            if alone:
                yield waiting
                waiting = ([], [], [], [])
    if waiting[0]:
        yield waiting


def _implementation(backend: ModuleType) -> Callable[[Sketch], None]:
    """Of the sketch, on the backend that `choose` picked."""
    return {
        cpu: sketch_cpu.sketch,
        cuda: sketch_cuda.sketch,
        triton_backend: sketch_triton.sketch,
    }.get(backend, sketch_reference.sketch)
