"""What several optimizer tests need: noise as the optimizer sees it, and small problems."""

import torch

import zopro_kernels as zk


def noise_of(opt, params, direction=0, distribution="rademacher", seed=None):
    """n of the last step's direction for each of `params`, in float64 and in their shapes."""
    seed = opt.last.seed if seed is None else seed
    return [
        zk.noise(p.numel(), seed, param=i, stream=direction, distribution=distribution)
        .double()
        .view(p.shape)
        for i, p in enumerate(params)
    ]


def parameters(*shapes, dtype=torch.float32, scale=1.0):
    generator = torch.Generator().manual_seed(7)
    return [
        torch.nn.Parameter((scale * torch.randn(shape, generator=generator)).to(dtype))
        for shape in shapes
    ]


def copies(params):
    return [p.detach().clone() for p in params]


def same_bits(a, b):
    views = {2: torch.int16, 4: torch.int32}
    return all(
        torch.equal(
            x.detach().view(views[x.element_size()]), y.detach().view(views[y.element_size()])
        )
        for x, y in zip(a, b)
    )


def quadratic(params):
    """0.5 sum theta^2 with growing curvatures, in float64: no rounding of its own."""

    def loss():
        total = 0.0
        for p in params:
            curvature = torch.linspace(0.5, 2.0, p.numel(), dtype=torch.float64).view(p.shape)
            total = total + 0.5 * (curvature * p.double().square()).sum()
        return total

    return loss
