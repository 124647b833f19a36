"""Low-rank directions of large weights, and norms; what a block leaves behind."""

import pytest
import torch
from kernels.bits import assert_same_bits
from population.models import Net, OwnRMSNorm, adapted, data, losses
from torch import nn

from zopro import StepLog, ZOPrO, replay


def low_rank(opt, layer, size, rank, sign=1):
    """Effective weights along low-rank directions, less the weights: [size, out, in]."""
    ins = layer.in_features
    eye = torch.eye(ins, dtype=layer.weight.dtype).expand(size, ins, ins)
    with opt.population(size, torch.arange(size), signs=sign, model=layer, rank=rank):
        return layer(eye).transpose(1, 2).float() - layer.weight


def bare(outs, ins, dtype=torch.float32):
    layer = nn.Linear(ins, outs, bias=False, dtype=dtype)
    return layer, lambda **options: ZOPrO(layer.parameters(), **{"eps": 0.5, **options})


@pytest.mark.parametrize("rank", [1, 3])
def test_low_rank_directions_have_their_rank_and_size(rank):
    layer, opt = bare(40, 60)
    nn.init.zeros_(layer.weight)
    z = low_rank(opt(distribution="gaussian"), layer, 32, rank) / 0.5
    values = torch.linalg.svdvals(z)
    assert (values[:, rank - 1] > 1).all() and (values[:, rank:] < 1e-3).all()
    # The mean square of 32 products of norms; that of a and b varies by sqrt(2 / 40) or so.
    assert abs(z.square().mean() - 1) < 0.2
    mixed = z.flatten(1) @ z.flatten(1).t() / z[0].numel()
    assert (mixed - mixed.diag().diag()).abs().max() < 0.35  # streams are independent


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_the_low_rank_update_goes_along_what_was_measured(dtype):
    layer, make = bare(40, 60, dtype)
    opt = make(lr=0.125, weight_decay=0.5, eps=0.5)
    nn.init.ones_(layer.weight)
    z = low_rank(make(lr=0.0), layer, 4, 2) / 0.5
    given = torch.tensor([3.0, -1.0, 0.5, 2.0])
    x = torch.ones(8, 1, 60, dtype=dtype)
    with opt.population(4, [0, 1, 2, 3] * 2, signs=[1] * 4 + [-1] * 4, model=layer, rank=2) as pop:
        layer(x)
        pop.losses(torch.cat([given, torch.zeros(4)]))
    opt.step()
    slopes = given / 2 / 0.5
    want = (1 - 0.125 * 0.5) - 0.125 * (slopes.view(4, 1, 1) * z).mean(0)
    # bf16: z is read off bf16 products, and the store rounds by a unit of 2^-8.
    torch.testing.assert_close(
        layer.weight.detach().float(), want, rtol=0, atol=1e-5 if dtype == torch.float32 else 0.02
    )


def test_a_step_of_low_rank_that_is_not_finite_changes_nothing():
    model = Net().eval()
    opt = ZOPrO(model.parameters(), eps=0.1, lr=0.1, weight_decay=0.1)
    kept = [p.detach().clone() for p in model.parameters()]
    x, y = data(2)
    with opt.population(2, model=model) as pop:
        pop.losses(losses(model, pop.copies(x), pop.copies(y)) * float("nan"))
    opt.step()
    assert opt.skipped_steps == 1 and opt.step_count == 1
    for p, q in zip(model.parameters(), kept):
        assert_same_bits(p.detach(), q)


class WithBias(nn.Module):
    def __init__(self):
        super().__init__()
        self.all = nn.ModuleList([OwnRMSNorm(6), nn.LayerNorm(6), nn.RMSNorm(6), nn.Linear(6, 6)])
        for p in self.parameters():
            nn.init.normal_(p)

    def forward(self, x):
        for layer in self.all:
            x = layer(x)
        return x


@pytest.mark.parametrize("only", range(4), ids=["own", "LayerNorm", "RMSNorm", "bias"])
def test_each_kind_of_layer_alone(only):
    """On four dimensions, as norms of heads have."""
    model = WithBias()
    for i, layer in enumerate(model.all):
        layer.requires_grad_(i == only)
    model.all[3].weight.requires_grad_(False)
    opt = ZOPrO(model.parameters(), eps=0.3, num_directions=2, restore="exact")
    x = torch.randn(3, 4, 2, 6, generator=torch.Generator().manual_seed(0))
    with opt.population(2, [1, 0, 1], signs=[1, -1, -1], model=model):
        got = model(x)
    for j, (k, sign) in enumerate([(1, 1), (0, -1), (1, -1)]):
        with opt.perturbed(sign, k), torch.no_grad():
            torch.testing.assert_close(got[j : j + 1], model(x[j : j + 1]))


def test_a_block_leaves_the_model_as_it_was():
    model = adapted()
    opt = ZOPrO(model.parameters())
    kept = {name: p.detach().clone() for name, p in model.named_parameters()}
    own = model.base_model.model.one.lora_A["default"]
    own.forward = hooked = own.forward  # as accelerate's hooks put it
    x, y = data(2)
    with pytest.raises(KeyError, match="mine"), opt.population(2, model=model) as pop:
        model(pop.copies(x))
        raise KeyError("mine")
    assert own.__dict__.pop("forward") == hooked
    assert not [m for m in model.modules() if "forward" in m.__dict__ or m._forward_pre_hooks]
    for name, p in model.named_parameters():
        assert_same_bits(p.detach(), kept[name], name)
    assert torch.is_grad_enabled()
    opt.step(lambda: losses(model, x, y).mean())  # and the optimizer is free


@pytest.mark.parametrize("restore", ["exact", "inplace"])
def test_a_logged_population_replays_to_the_bit(tmp_path, restore):
    model = adapted()
    params = [p for p in model.parameters() if p.requires_grad]
    base = [p.detach().clone() for p in params]
    opt = ZOPrO(params, lr=0.01, eps=0.01, num_directions=3, restore=restore)
    x, y = data(2)
    with StepLog(tmp_path / "steps.zolog", opt):
        for turn in range(6):
            if turn == 2:
                opt.step(lambda: losses(model, x, y).mean())
                continue
            with opt.population(3, model=model) as pop:
                pop.losses(losses(model, pop.copies(x), pop.copies(y)))
            opt.step()
    replay(tmp_path / "steps.zolog", base)
    for p, q in zip(params, base):
        assert_same_bits(q, p.detach())


def test_several_forwards_make_one_step():
    """The first half of the directions in one forward, the rest in another: the same update."""
    x, y = data(2)
    weights = []
    for split in (False, True):
        model = adapted()
        opt = ZOPrO(model.parameters(), lr=0.1, eps=0.01)
        with opt.population(4, model=model) as pop:
            if not split:
                pop.losses(losses(model, pop.copies(x), pop.copies(y)))
            for half in ((0, 1), (2, 3)) if split else ():
                for sign in (1, -1):
                    pop.map([k for k in half for _ in range(2)], signs=sign)
                    pop.losses(losses(model, torch.cat([x, x]), torch.cat([y, y])))
        opt.step()
        weights.append([p.detach().clone() for p in model.parameters()])
    for a, b in zip(*weights):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
