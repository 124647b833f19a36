"""Perturbed copies on the backend "triton": its host side."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from .reference_law import gaussian_table
from .stored import Int8Blocks
from .table import TILE
from .triton_backend import GROUPS, NUM_WARPS, _on, _triton_type

if TYPE_CHECKING:
    from .copies import Copies


def perturbed(c: Copies) -> None:
    """Writes c.out: a copy of the tensor for each member, then one launch over all of them."""
    from . import triton_perturbed

    count, numel = c.out.shape
    device = c.tensor.device
    with _on(device):
        c.out.copy_(c.tensor.expand(count, numel))
        tiles = (c.offset + numel - 1) // TILE - c.offset // TILE + 1
        bytes_each = c.out.element_size()
        prev, v = (x if x is not None else c.out for x in (c.prev, c.v))
        pointers = [x.data_ptr() for x in (c.out, prev, v)]
        aligned = all(
            (address | 2 * c.offset | numel * bytes_each) % 16 == 0 for address in pointers
        )
        if c.form == torch.int8 or c.form != c.tensor.dtype:
            aligned = aligned and numel % 16 == 0  # rows of prev are as long in another dtype
        scales = [x.scales if isinstance(x, Int8Blocks) else c.floats for x in (c.prev, c.v)]
        options = {
            "DTYPE": _triton_type(c.tensor.dtype),
            "STOCHASTIC": c.stochastic and c.tensor.dtype != torch.float32,
            "HAS_PREV": c.prev is not None,
            "HAS_V": c.v is not None,
            "FORM": _triton_type(c.form),
            "num_warps": NUM_WARPS,
            "enable_fp_fusion": False,  # the law rounds products and sums
        }
        memory = [x.values if isinstance(x, Int8Blocks) else x for x in (prev, v)]
        arguments = (c.out, *memory, *scales, c.integers, c.floats)
        where = (numel, c.offset, c.param, int(aligned))
        grid = (tiles, count)
        if c.distribution == "rademacher":
            triton_perturbed.perturbed_signs[grid](*arguments, *where, **options)
        else:
            triton_perturbed.perturbed_gaussians[grid](
                *arguments, gaussian_table(device), *where,
                GROUPS=GROUPS if device.type == "cuda" else 512,  # the interpreter pays by the step
                **options,
            )  # fmt: skip
