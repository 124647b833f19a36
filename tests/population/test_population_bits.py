"""Each sequence sees the weights that the pass makes: the same bits, whatever is beside it."""

import pytest
import torch
from kernels.bits import assert_same_bits
from population.models import Net, adapted, data, losses
from torch import nn

import zopro_kernels as zk
from zopro import ZOPrO

BACKENDS = [name for name in ("reference", "cpu", "triton") if zk.backends()[name] == "available"]
OUTS, INS = 6, 10


def seen(opt, layer, size, mapping, signs=1, **options):
    """What each sequence multiplies with, read off the layer's answers to unit vectors: [S, out,
    in]."""
    eye = torch.eye(INS, dtype=layer.weight.dtype).expand(len(mapping), INS, INS)
    with opt.population(size, mapping, signs=signs, model=layer, rank=None, **options):
        return layer(eye).transpose(1, 2)


def made(opt, layer, stream, sign):
    """What the pass leaves in a copy of the weights."""
    copy = layer.weight.detach().clone()
    seed = int(opt._build_plan(opt._step_seed(0), 1).directions[0].seed)
    rounding = "nearest" if opt._rounding == "nearest" else "stochastic"
    zk.add_noise_(
        [copy], [seed], [sign * opt.param_groups[0]["eps"]], streams=[stream],
        distribution=opt._distribution, rounding=rounding, backend="reference",
    )  # fmt: skip
    return copy


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_weights_have_the_bits_of_the_pass(backend, dtype):
    layer = nn.Linear(INS, OUTS, bias=False, dtype=dtype)
    for distribution in ("rademacher", "gaussian"):
        opt = ZOPrO(layer.parameters(), eps=0.01, distribution=distribution, backend=backend)
        streams, signs = [2, 0, 2, 1], [1, -1, -1, 0]
        got = seen(opt, layer, 3, streams, signs)
        for j, (stream, sign) in enumerate(zip(streams, signs)):
            assert_same_bits(got[j], made(opt, layer, stream, sign), f"{distribution} {j}")


def test_order_neighbours_and_shards_do_not_matter():
    layer = nn.Linear(INS, OUTS, bias=False, dtype=torch.bfloat16)
    opt = ZOPrO(layer.parameters(), eps=0.01)
    streams, signs = [0, 0, 1, 1, 2, 2, 3, 3], [1, 1, -1, -1, 1, 1, -1, -1]
    whole = seen(opt, layer, 4, streams, signs)
    order = torch.randperm(8, generator=torch.Generator().manual_seed(0)).tolist()
    shuffled = seen(opt, layer, 4, [streams[j] for j in order], [signs[j] for j in order])
    assert_same_bits(shuffled, whole[order], "another order")
    shards = [seen(opt, layer, 4, streams[a : a + 4], signs[a : a + 4]) for a in (0, 4)]
    assert_same_bits(torch.cat(shards), whole, "two ranks")


def test_small_scratch_changes_nothing(monkeypatch):
    layer = nn.Linear(INS, OUTS, bias=False)
    opt = ZOPrO(layer.parameters(), eps=0.01)
    streams = torch.arange(7)
    whole = seen(opt, layer, 7, streams)
    monkeypatch.setattr("zopro_kernels.room.SCRATCH_BYTES", {"cpu": 2 * OUTS * INS * 4})
    assert_same_bits(seen(opt, layer, 7, streams), whole, "two copies at a time")


@pytest.mark.parametrize("storage", ["fp32", "int8"])
def test_targeted_weights_are_those_of_perturbed(storage):
    layer = nn.Linear(INS, OUTS, bias=False)
    opt = ZOPrO(layer.parameters(), eps=0.01, num_directions=2, restore="exact")
    prev, reward = torch.randn(2, OUTS, INS, generator=torch.Generator().manual_seed(0))
    opt.set_targets([prev], [reward], schedule="constant", storage=storage)
    got = seen(opt, layer, 2, [0, 1, 1], [1, 1, -1])
    for j, (k, sign) in enumerate([(0, 1), (1, 1), (1, -1)]):
        with opt.perturbed(sign, k):
            assert_same_bits(got[j], layer.weight.detach(), f"member {j}")


@pytest.mark.parametrize("make", [adapted, Net], ids=["LoRA", "all layers"])
def test_a_forward_is_that_of_each_perturbed_model(make):
    """Padding behind a sequence, too: each is as if it were alone."""
    model = make().eval()
    opt = ZOPrO(model.parameters(), eps=0.1, num_directions=3, restore="exact")
    x, y = data(4)
    with opt.population(3, model=model, rank=None) as pop:
        got = losses(model, pop.copies(x), pop.copies(y)).view(3, 2, 4)
    plain = losses(model, x, y)
    with torch.no_grad():
        for k in range(3):
            for s, sign in enumerate((1, -1)):
                with opt.perturbed(sign, k):
                    want = losses(model, x, y)
                torch.testing.assert_close(got[k, s], want, rtol=1e-5, atol=1e-6)
                assert (got[k, s] - plain).abs().max() > 1e-3  # and it did move


def test_llama_with_padding_on_either_side():
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    peft = pytest.importorskip("peft", reason="peft is not installed")
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, vocab_size=50, pad_token_id=0,
    )  # fmt: skip
    model = transformers.LlamaForCausalLM(config)
    lora = peft.LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False)
    model = peft.get_peft_model(model, lora).eval()
    opt = ZOPrO(model.parameters(), eps=0.05)
    ids = torch.randint(1, 50, (3, 9), generator=torch.Generator().manual_seed(0))
    long = torch.cat([torch.zeros(3, 4, dtype=torch.long), ids, torch.zeros_like(ids)], dim=1)
    with opt.population(3, torch.arange(3), model=model):
        bare = model(ids).logits
        padded = model(long, attention_mask=(long > 0).long()).logits[:, 4:13]
    torch.testing.assert_close(padded, bare, rtol=1e-4, atol=1e-4)
    with opt.population(3, [1], model=model):
        alone = model(ids[1:2]).logits
    torch.testing.assert_close(alone, bare[1:2], rtol=1e-4, atol=1e-4)
    assert "forward" not in model.base_model.model.lm_head.__dict__
