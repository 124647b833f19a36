"""What others do to perturb and update weights, re-created from its operations in a few lines.

None of their code runs here. `scale` is a number; `tensors` are written in place.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor


def normal(x: Tensor) -> Tensor:
    """Fresh N(0, 1) of the shape, dtype and device of `x`, from torch's global generator."""
    return torch.normal(mean=0.0, std=1.0, size=x.shape, dtype=x.dtype, device=x.device)


@torch.no_grad()
def mezo_pass(tensors: Iterable[Tensor], scale: float) -> None:
    """MeZO's perturbation (arXiv 2305.17333) at its kindest, re-created from its operations.

    torch.normal, multiply, add, per tensor, the latter two in place: 6 W where the published loop,
    `mezo_step`, moves 8 W.
    """
    for x in tensors:
        x.add_(normal(x).mul_(scale))


@torch.no_grad()
def mezo_step(
    tensors: Sequence[Tensor], loss: Callable[[], Tensor], lr: float, eps: float, seed: int
) -> Tensor:
    """A step of MeZO (arXiv 2305.17333), re-created from its operations; returns the first loss.

    Per tensor four kernels a perturbation and six the update, 37 W a step; the same z comes back
    by seeding the global generator four times. `loss` returns a scalar tensor.
    """

    def perturb(scale: float) -> None:
        torch.manual_seed(seed)
        for x in tensors:
            x.data = x.data + scale * normal(x) * eps

    perturb(1)
    plus = loss()
    perturb(-2)
    minus = loss()
    slope = ((plus - minus) / (2 * eps)).item()
    perturb(1)
    torch.manual_seed(seed)
    for x in tensors:
        x.data = x.data - lr * (slope * normal(x) + 0.0 * x.data)
    return plus


@torch.no_grad()
def foreach_pass(tensors: Sequence[Tensor], scale: float) -> None:
    """torch's foreach, as its optimizers use it: noise of all tensors first, then one add."""
    torch._foreach_add_(tensors, [torch.randn_like(x) for x in tensors], alpha=scale)


@functools.cache
def compiled_pass(distribution: str) -> Callable[[Iterable[Tensor], float], None]:
    """torch.compile of noise, multiply and add of a tensor: one kernel, without a noise law.

    distribution: "gaussian" or "rademacher". Compiled on first use, once for each dtype and any
    size; needs a C++ compiler on a CPU, triton on a GPU. Tensors are contiguous. Raises where it
    would fall back to eager mode.
    """

    def add(x: Tensor, scale: float) -> None:
        if distribution == "gaussian":
            z = torch.randn_like(x, dtype=torch.float32)
        else:
            z = torch.where(torch.rand_like(x, dtype=torch.float32) < 0.5, 1.0, -1.0)
        x.copy_(x + scale * z)

    compiled = torch.compile(add, dynamic=True, fullgraph=True)

    @torch.no_grad()
    def run(tensors: Iterable[Tensor], scale: float) -> None:
        for x in tensors:
            compiled(x.view(-1), scale)

    return run
