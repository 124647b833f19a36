"""Forms in which prev and v may be kept: fp32, bf16, or 8 bits with a scale for each block."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .arguments import LAST, check_tensors, integers

BLOCK = 256  # elements of the global index space under one scale: a row of the law's tiles
DTYPES = (torch.float32, torch.bfloat16)


class Int8Blocks:
    """A tensor kept in 8 bits: element i is float(values[i]) * its block's scale, rounded to fp32.

    values: int8, any shape, contiguous. scales: fp32 [B] on the same device, contiguous: one for
    each block of 256 elements of the global index space that the tensor touches, where its element
    0 has index `offset`. Neither is copied; `quantise` makes them. Raises ValueError or TypeError
    for what does not fit.
    """

    def __init__(self, values: Tensor, scales: Tensor, offset: int = 0) -> None:
        (self.offset,) = integers("offset", [offset], 1, LAST)
        check_tensors("values", [values], (torch.int8,))
        check_tensors("scales", [scales], (torch.float32,))
        count = _blocks(self.offset, values.numel())
        if scales.shape != (count,) or scales.device != values.device:
            raise ValueError(
                f"scales is {tuple(scales.shape)} on {scales.device} for {values.numel()} values "
                f"from offset {self.offset} on {values.device}: give [{count}] there"
            )
        if not (values.is_contiguous() and scales.is_contiguous()):
            raise ValueError("values or scales is not contiguous: make them by zk.quantise")
        self.values, self.scales = values, scales

    @property
    def shape(self) -> torch.Size:
        return self.values.shape

    @property
    def device(self) -> torch.device:
        return self.values.device

    @property
    def dtype(self) -> torch.dtype:
        return self.values.dtype

    def numel(self) -> int:
        """Number of elements."""
        return self.values.numel()

    def data_ptr(self) -> int:
        """Address of the values."""
        return self.values.data_ptr()

    def part(self, start: int, stop: int) -> Int8Blocks:
        """Elements start .. stop - 1 in row-major order as a vector; the same memory."""
        first, offset = self.offset // BLOCK, self.offset + start
        scales = self.scales[offset // BLOCK - first :][: _blocks(offset, stop - start)]
        return Int8Blocks(self.values.view(-1)[start:stop], scales, offset)

    def float(self) -> Tensor:
        """The elements, fp32, of the values' shape; a new tensor."""
        lead = self.offset % BLOCK
        scales = self.scales.repeat_interleave(BLOCK)[lead : lead + self.numel()]
        return scales.view(self.shape).mul_(self.values)

    def to(self, device: torch.device) -> Int8Blocks:
        """On `device`; itself if it is there."""
        if device == self.device:
            return self
        return Int8Blocks(self.values.to(device), self.scales.to(device), self.offset)


Stored = Tensor | Int8Blocks


def quantise(tensor: Tensor, offset: int = 0) -> Int8Blocks:
    """`tensor` (any shape, real, finite) in 8 bits, with one fp32 scale for each 256 elements.

    offset: global index of its element 0, as in the pass that is to read it. A block's scale is
    its largest magnitude / 127; values are rounded to the nearest, ties to even. A block of zeros
    has scale 0. Raises ValueError for a number that is not finite, TypeError for no real tensor.
    """
    if not isinstance(tensor, Tensor) or not tensor.is_floating_point():
        what = tensor.dtype if isinstance(tensor, Tensor) else type(tensor).__name__
        raise TypeError(f"tensor is {what}: give a tensor of real numbers")
    (offset,) = integers("offset", [offset], 1, LAST)
    flat, lead = tensor.detach().reshape(-1), offset % BLOCK
    blocks = torch.zeros(_blocks(offset, len(flat)), BLOCK, device=tensor.device)
    blocks.view(-1)[lead : lead + len(flat)] = flat
    if not bool(blocks.isfinite().all()):
        raise ValueError("tensor holds a number that is not finite in fp32: give finite numbers")
    scales = blocks.abs().amax(dim=1) / 127 if len(blocks) else blocks.new_zeros(0)
    # Where the scale is 0 or subnormal its own rounding counts: not past 127.
    blocks.div_(torch.where(scales > 0, scales, 1.0).unsqueeze(1)).round_().clamp_(-127, 127)
    values = blocks.view(-1)[lead : lead + len(flat)].to(torch.int8)
    return Int8Blocks(values.view(tensor.shape), scales, offset)


def _blocks(offset: int, numel: int) -> int:
    """How many blocks the elements from `offset` on touch."""
    return (offset + numel - 1) // BLOCK - offset // BLOCK + 1 if numel else 0


def check_stored(name: str, given: Sequence[Stored]) -> list[Stored]:
    """`given` as a list of tensors that are all kept in the same one of the forms."""
    if isinstance(given, (Tensor, Int8Blocks)):
        raise TypeError(f"{name} is one tensor: give a list of tensors")
    given = list(given)
    others = [g for g in given if not isinstance(g, Int8Blocks)]
    if others:
        check_tensors(name, others, DTYPES)
    if len({g.dtype for g in given}) > 1:
        forms = ", ".join(sorted({str(g.dtype).removeprefix("torch.") for g in given}))
        raise TypeError(f"{name} holds {forms}: keep all of it in one form")
    return given


def flattened(x: Stored) -> Stored:
    """The same elements as a vector; a view, of what is contiguous."""
    return x.part(0, x.numel()) if isinstance(x, Int8Blocks) else x.detach().reshape(-1)


def memory(x: Stored) -> Tensor:
    """The tensor that holds the elements, or their 8 bits."""
    return x.values if isinstance(x, Int8Blocks) else x
