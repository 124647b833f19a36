"""A head that is held for whole evaluations lends its memory to an embedding as large."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from zopro import ZOPrO

TOKENS = torch.arange(12).view(2, 6)


class Untied(nn.Module):
    """Reads its head's weight without the head's forward, as TRL's chunked losses do."""

    def __init__(self, fails=False):
        super().__init__()
        torch.manual_seed(0)
        self.fails = fails
        self.embedding = nn.Embedding(50, 8)
        self.inner = nn.Linear(8, 8)
        self.head = nn.Linear(8, 50, bias=False)

    def forward(self, tokens):
        hidden = torch.tanh(self.inner(self.embedding(tokens)))
        if self.fails:
            raise KeyError("a forward that ends early")
        return F.linear(hidden, self.head.weight)


def loss_of(model):
    return F.cross_entropy(model(TOKENS).flatten(0, 1), TOKENS.flatten())


def optimizer(model, restore):
    options = {"lr": 0.05, "eps": 0.01, "num_directions": 2, "restore": restore}
    opt = ZOPrO(model.named_parameters(), **options)
    if restore == "layerwise":
        opt.attach(model, held=[model.head.weight])
    return opt


def walked(restore):
    model, losses = Untied(), []
    opt = optimizer(model, restore)

    def closure():
        # A second forward makes the head's copy room, and the copy itself, once more.
        losses.append([loss_of(model).item(), loss_of(model).item()])
        return loss_of(model)

    for _ in range(3):
        opt.estimate(closure)
        opt.step()
    return losses, [p.detach().clone() for p in model.parameters()], opt


def test_bits_are_those_of_copied_weights():
    wanted, theta, _ = walked("exact")
    losses, found, _ = walked("layerwise")
    assert losses == wanted and all(first == second for first, second in losses)
    assert all(map(torch.equal, theta, found))
    assert len({tuple(pair) for pair in losses}) == len(losses)  # the head is perturbed


def test_memory_is_the_larger_of_the_two_and_the_other_layers():
    _, _, opt = walked("layerwise")
    layers = opt._weights._layers
    spaces = {id(x.scratch): x.scratch for x in layers.values()}
    held = 50 * 8 * 4
    assert sum(sum(x.sizes.values()) for x in spaces.values()) <= held + 2 * 8 * 9 * 4
    assert layers[None].scratch is next(
        x.scratch for m, x in layers.items() if isinstance(m, nn.Embedding)
    )


def test_stored_weights_come_back_where_a_forward_fails():
    model = Untied(fails=True)
    opt = optimizer(model, "layerwise")
    stored = [(p.data_ptr(), p.detach().clone()) for p in model.parameters()]
    with pytest.raises(KeyError):
        opt.estimate(lambda: loss_of(model))
    opt.settle()
    for p, (place, value) in zip(model.parameters(), stored):
        assert p.data_ptr() == place and torch.equal(p, value)
