"""Small models with shared, nested, repeated and frozen modules, and their optimizer."""

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from zopro import ZOPrO


class Block(nn.Module):
    """Owns a parameter and modules that own others; called twice."""

    def __init__(self, width):
        super().__init__()
        self.scale = nn.Parameter(torch.rand(width) + 0.5)
        self.inner = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width)

    def forward(self, x):
        return self.norm(x + self.scale * torch.tanh(self.inner(x)))


class Tiny(nn.Module):
    """An embedding that is the head as well, a block that runs twice, frozen weights."""

    def __init__(self, dtype=torch.float32, vocabulary=29, width=12):
        super().__init__()
        torch.manual_seed(0)
        self.embed = nn.Embedding(vocabulary, width)
        self.block = Block(width)
        self.frozen = nn.Linear(width, width).requires_grad_(False)
        self.head = nn.Linear(width, vocabulary, bias=False)
        self.head.weight = self.embed.weight
        self.to(dtype).eval()
        self.ids = torch.arange(20) % vocabulary

    def forward(self):
        x = self.block(self.block(self.embed(self.ids)))
        return cross_entropy(self.head(self.frozen(x)).float()[:-1], self.ids[1:])


def made(model, restore="layerwise", **options):
    options = {"lr": 1e-2, "eps": 1e-2, "seed": 5, **options}
    opt = ZOPrO(model.named_parameters(), restore=restore, **options)
    if restore == "layerwise":
        opt.attach(model)
    return opt


def aim(opt, model):
    generator = torch.Generator().manual_seed(3)
    update = [torch.randn(p.shape, generator=generator) for p in model.parameters()
              if p.requires_grad]  # fmt: skip
    opt.set_targets(update, update[::-1][::-1], steps=20)
