"""Below the first perturbed layer each response runs once, and the losses are the same."""

import pytest
import torch
from population.models import adapted, data, losses

from zopro import ZOPrO

transformers = pytest.importorskip("transformers", reason="transformers is not installed")
peft = pytest.importorskip("peft", reason="peft is not installed")
LAYERS = 3


def llama(train):
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        hidden_size=32, intermediate_size=48, num_hidden_layers=LAYERS, num_attention_heads=2,
        num_key_value_heads=1, vocab_size=50, pad_token_id=0,
    )  # fmt: skip
    model = transformers.LlamaForCausalLM(config).eval()
    if train == "lora":
        lora = peft.LoraConfig(
            r=4, target_modules=["q_proj", "v_proj", "up_proj"], layers_to_transform=[2],
            init_lora_weights=False,
        )  # fmt: skip
        return peft.get_peft_model(model, lora).eval()
    for name, p in model.named_parameters():
        p.requires_grad_(name == "model.norm.weight" if train == "last_norm" else "norm" in name)
    return model


def batch(responses, length, padded=True):
    ids = torch.randint(1, 50, (responses, length), generator=torch.Generator().manual_seed(1))
    if padded:
        for b in range(responses):
            ids[b, : b % 3] = 0
    return {"input_ids": ids, "attention_mask": (ids > 0).long()}


def watched(model):
    """The sequences that each layer's MLP sees, all together, by the layer's number."""
    seen = {}
    for name, module in model.named_modules():
        if name.endswith("mlp.act_fn"):
            number = int(name.split("layers.")[1].split(".")[0])

            def count(module, args, layer=number):
                seen[layer] = seen.get(layer, 0) + len(args[0])

            module.register_forward_pre_hook(count)
    return seen


def score(model, inputs, size=4, given=None, parts=None, estimator="two_sided", copies=None):
    """Slopes and losses of a population, and what was seen."""
    seen, found = watched(model), []
    opt = ZOPrO(model.parameters(), eps=0.05, seed=3)
    n = 2 * size if estimator == "two_sided" else size + 1
    mapping, signs = "all", 1
    if given:
        keys = [(k, s) for k in range(size) for s in (1, -1) for _ in inputs["input_ids"]]
        mapping, signs = [k for k, _ in keys], [s for _, s in keys]
    with opt.population(size, mapping, signs=signs, estimator=estimator, model=model) as pop:
        for first, count in parts or [(0, n)]:
            if parts:
                pop.part(first, count)
            many = {k: x.repeat(n, 1) for k, x in inputs.items()} if given else pop.copies(inputs)
            many = many if copies is None else copies(many)
            logits = model(**many, use_cache=False).logits.float().log_softmax(-1)
            chosen = logits[:, :-1].gather(2, many["input_ids"][:, 1:, None])[..., 0]
            found.append((chosen * many["attention_mask"][:, 1:]).sum(1))
            pop.losses(found[-1])
    return opt._pending.slopes(True), torch.cat(found), seen, pop.shared_sequences


@pytest.mark.parametrize("train", ["last_norm", "lora", "norms"])
def test_losses_are_those_without_sharing(train):
    inputs = batch(5, 7)
    slopes, got, seen, shared = score(llama(train), inputs)
    known, want, all_seen, none = score(llama(train), inputs, given=True)
    torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(slopes, known, rtol=1e-3, atol=1e-5)
    assert set(all_seen.values()) == {40}
    below = {"last_norm": LAYERS, "lora": LAYERS - 1, "norms": 0}[train]
    assert none == 0
    # The embedding; in the LoRA layer its first norm, the base of a product, a dropout that is off.
    assert shared == 5 * (1 + below + {"lora": 3}.get(train, 0))
    for layer, count in seen.items():
        assert count == (5 if layer < below else 40)


def test_several_forwards_run_the_lower_layers_once():
    inputs = batch(5, 7)
    slopes, want, *_ = score(llama("last_norm"), inputs)
    parts = [(0, 3), (3, 3), (6, 2)]
    again, got, seen, _ = score(llama("last_norm"), inputs, parts=parts)
    torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(again, slopes, rtol=1e-4, atol=1e-6)
    assert set(seen.values()) == {5}
    one, *_, shared = score(llama("norms"), inputs, parts=[(0, 2), (2, 3)], estimator="one_sided")
    whole, *_ = score(llama("norms"), inputs, estimator="one_sided")
    torch.testing.assert_close(one, whole, rtol=1e-4, atol=1e-6)
    assert shared == 5


@pytest.mark.parametrize("case", ["length", "changed", "cache", "one response"])
def test_what_is_not_certain_is_not_shared(case):
    """As many positions as sequences; copies that differ; keys that would be kept; B = 1."""
    inputs = batch({"one response": 1}.get(case, 3), 24 if case == "length" else 7, padded=False)

    def changed(many):
        if case == "changed":
            many["input_ids"][5, 2] = 49 - many["input_ids"][5, 2]
        if case == "cache":
            many["past_key_values"] = transformers.DynamicCache()
        return many

    _, got, seen, _ = score(llama("last_norm"), inputs, copies=changed)
    _, want, *_ = score(llama("last_norm"), inputs, given=True, copies=changed)
    torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5)
    sequences = 8 * len(inputs["input_ids"])
    assert set(seen.values()) == {sequences}


def test_forwards_are_as_they_were():
    model = llama("last_norm")
    score(model, batch(3, 7))
    assert not any("forward" in m.__dict__ for m in model.modules())
    assert not model._forward_pre_hooks


def test_estimates_add_up():
    """Two populations before a step: the step of the mean of both batches' slopes."""
    x, y = data(6)
    both, whole = adapted(), adapted()
    opts = [ZOPrO(m.parameters(), lr=0.1, eps=0.02, seed=5) for m in (both, whole)]
    for part in (slice(0, 3), slice(3, 6)):
        with opts[0].population(3, model=both) as pop:
            pop.losses(losses(both, *map(pop.copies, (x[part], y[part]))))
    with opts[1].population(3, model=whole) as pop:
        pop.losses(losses(whole, *map(pop.copies, (x, y))))
    with pytest.raises(RuntimeError, match="same size"):
        opts[0].population(2, model=both)
    for opt in opts:
        opt.step()
    assert (opts[0].last.estimates, opts[1].last.estimates) == (2, 1)
    assert opts[0].last.loss == pytest.approx(opts[1].last.loss)
    for p, q in zip(both.parameters(), whole.parameters()):
        torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-6)


def test_a_part_that_is_none():
    x, y = data(2)
    model = adapted()
    opt = ZOPrO(model.parameters())
    with opt.population(2, model=model) as pop:
        with pytest.raises(ValueError, match="there are 4, from 0"):
            pop.part(3, 2)
        pop.part(0, 3)
        with pytest.raises(ValueError, match="part of 3 blocks"):
            losses(model, x, y)
