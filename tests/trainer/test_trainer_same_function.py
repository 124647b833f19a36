"""Both signs of a perturbation see the same function: no dropout, the same random numbers."""

from types import SimpleNamespace

import pytest
import torch
from torch.nn.functional import dropout
from trainer.tiny_llama import build_model, build_tokenizer, prompts, reward_digits, tokens
from trainer.tiny_trainer import ZOTrainer, arguments, logged
from trainer.tiny_trl import GENERATE, TRAINERS, build

from zopro import ZOPrOConfig, ZOPrOTrainer
from zopro.trainer.evaluation import CommonRandomNumbers, root_in_eval

STILL = {"learning_rate": 0.0, "max_steps": 2, "zo_eps": 1e-3}


modes, drawn = [], []


def root_dropout(rate):
    """A model that drops out hidden states on the flag of the root, in all of TRL's ways to it."""
    model = build_model()

    def drop(module, args, out):
        modes.append((model.training, module.training))
        out.last_hidden_state = dropout(out.last_hidden_state, rate, model.training)

    model.model.register_forward_hook(drop)
    return model


def noisy():
    """A model whose loss draws from the global generator, in eval mode too."""
    model = build_model()

    def noise(module, args, out):
        drawn.append(torch.rand(()).item())
        out.loss = out.loss * (1 + drawn[-1])

    model.register_forward_hook(noise)
    return model


def slopes(tmp_path, model, objective):
    if objective == "rloo":
        t = ZOPrOTrainer(
            model, reward_digits, arguments(tmp_path, ZOPrOConfig, **STILL, **GENERATE),
            prompts(), processing_class=build_tokenizer(),
        )  # fmt: skip
    else:
        t = ZOTrainer(model, arguments(tmp_path, **STILL), None, tokens())
    t.train()
    return logged(t, "grad_norm")


@pytest.mark.parametrize("objective", ["loss", "rloo"])
def test_dropout_of_the_root_is_off(objective, tmp_path):
    """Generation and old log-probabilities included: they decide the advantages of RLOO."""
    modes.clear()
    with_dropout = slopes(tmp_path, root_dropout(0.5), objective)
    assert set(modes) == {(False, False)}
    without = slopes(tmp_path, root_dropout(0.0), objective)
    assert with_dropout == without and all(0 < g < 10 for g in without)


def test_dropout_of_modules_is_off_and_the_models_flag_stays(tmp_path):
    model = build_model(attention_dropout=0.5)
    t = ZOTrainer(model, arguments(tmp_path, **{**STILL, "zo_eps": 1e-9}), None, tokens())
    inside, between, losses = [], [], []
    model.model.register_forward_hook(
        lambda module, *_: inside.append((model.training, module.layers[0].self_attn.training))
    )
    parent = t.get_batch_samples

    def get_batch_samples(*args):
        between.append(model.training)
        return parent(*args)

    t.get_batch_samples = get_batch_samples
    model.register_forward_hook(lambda *a: losses.append(a[-1].loss.item()))
    t.train()
    assert set(inside) == {(False, False)} and between == [True, True]
    assert losses[0] == losses[1] and losses[2] == losses[3] and model.training
    assert not model._forward_pre_hooks and len(model._forward_hooks) == 1


@pytest.mark.parametrize("name", TRAINERS)
def test_trl_calls_no_forward_in_training_mode(name, tmp_path):
    t = build(name, tmp_path, max_steps=2, gradient_accumulation_steps=2)
    seen = []
    t.model.model.register_forward_hook(lambda *_: seen.append(t.model.training))
    t.train()
    assert seen and not any(seen)
    assert not any(key.startswith("eval_") for entry in t.state.log_history for key in entry)


@pytest.mark.parametrize("batching", [False, True])
def test_generation_leaves_no_module_in_training_mode(batching, tmp_path):
    """TRL's continuous batching ends with model.train()."""
    t = build("rloo", tmp_path, max_steps=2, use_transformers_continuous_batching=batching)
    attention, seen = t.model.model.layers[0].self_attn, []
    if batching:

        def generate_batch(prompts, **kwargs):
            return {i: SimpleNamespace(generated_tokens=[5, 6]) for i in range(len(prompts))}

        t.model.generate_batch = generate_batch
    attention.register_forward_hook(lambda module, *_: seen.append(module.training))
    t.train()
    assert seen and not any(seen)


def test_evaluations_draw_the_same_numbers(tmp_path):
    drawn.clear()
    found = slopes(tmp_path, noisy(), "loss")
    assert drawn[0] == drawn[1] != drawn[2] == drawn[3] and len(drawn) == 4
    assert all(g < 20 for g in found)

    drawn.clear()
    t = ZOTrainer(noisy(), arguments(tmp_path, **STILL), None, tokens())
    t.common_random_numbers = False
    t.train()
    assert len(set(drawn)) == 4 and max(logged(t, "grad_norm")) > 20


def test_generators_are_left_as_one_evaluation_leaves_them():
    torch.manual_seed(0)
    torch.rand(3)
    after = torch.get_rng_state()
    torch.manual_seed(0)
    replay = CommonRandomNumbers([torch.device("cpu"), torch.device("meta")])
    numbers = []
    for _ in range(3):
        replay()
        numbers.append(torch.rand(3).tolist())
    assert numbers[0] == numbers[1] == numbers[2]
    assert torch.equal(torch.get_rng_state(), after)


def test_the_root_gets_its_mode_back():
    class Root(torch.nn.Module):
        def forward(self, depth):
            flags.append(self.training)
            if depth == 0:
                raise KeyError("bad batch")
            return self(depth - 1)

    flags = []
    for mode in (True, False):
        root = Root().train(mode)
        with root_in_eval(root):
            with pytest.raises(KeyError, match="bad batch"):
                root(2)
            assert root.training is mode
        assert flags == [False] * 3 and not root._forward_hooks
        flags.clear()
