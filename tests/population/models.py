"""Small models whose sequences' losses can be told apart."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

WIDTH, LENGTH, OUT = 12, 5, 7


class OwnRMSNorm(nn.Module):
    """As language models write theirs."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(width))

    def forward(self, x: Tensor) -> Tensor:
        return self.weight * (x * x.pow(2).mean(-1, keepdim=True).add(1e-6).rsqrt())


class Net(nn.Module):
    """[S, L, WIDTH] -> [S, L, OUT]."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.own = OwnRMSNorm(WIDTH)
        self.one = nn.Linear(WIDTH, 9)
        self.rms = nn.RMSNorm(9)
        self.layer = nn.LayerNorm(9)
        self.two = nn.Linear(9, OUT, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.two(self.layer(self.rms(torch.tanh(self.one(self.own(x))))))


def adapted(seed: int = 0, dtype: torch.dtype = torch.float32, **options) -> nn.Module:
    """Net with PEFT's LoRA on its linear layers, B not 0."""
    peft = pytest.importorskip("peft", reason="peft is not installed")
    config = peft.LoraConfig(r=3, lora_alpha=6, target_modules=["one", "two"], **options)
    model = peft.get_peft_model(Net(seed), config).eval()
    for name, p in model.named_parameters():
        if "lora" in name:
            nn.init.normal_(p, std=0.3)
            p.data = p.data.to(dtype)
    return model


def data(responses: int, seed: int = 1) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(responses, LENGTH, WIDTH, generator=generator)
    return x, torch.randn(responses, LENGTH, OUT, generator=generator)


def losses(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """One a sequence: [S]."""
    return F.mse_loss(model(x), y, reduction="none").mean((1, 2))


def gradient(model: nn.Module, loss: Tensor) -> Tensor:
    """Exact, over all trainable numbers in order."""
    params = [p for p in model.parameters() if p.requires_grad]
    return torch.cat([g.view(-1) for g in torch.autograd.grad(loss, params)])


def flat(model: nn.Module) -> Tensor:
    return torch.cat([p.detach().reshape(-1) for p in model.parameters() if p.requires_grad])
