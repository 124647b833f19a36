"""ZOPrOTrainer: bad input in one sentence each, reward functions as in TRL, and that it learns."""

import functools

import pytest
import torch
from datasets import Dataset
from trainer.tiny_llama import build_model, build_tokenizer, prompts, reward_digits
from trainer.tiny_trainer import arguments, logged
from trl import RLOOConfig

from zopro import ZOPrOConfig, ZOPrOTrainer


def build(tmp_path, reward=reward_digits, data=None, model=None, **options):
    defaults = {"num_generations": 2, "max_completion_length": 4, "beta": 0.0, "max_steps": 1}
    return ZOPrOTrainer(
        model=build_model() if model is None else model,
        reward_funcs=reward,
        args=arguments(tmp_path, ZOPrOConfig, **{**defaults, **options}),
        train_dataset=prompts() if data is None else data,
        processing_class=build_tokenizer(),
    )


def raises(completions, **columns):
    raise KeyError("no such word")


def wrong_count(completions, **columns):
    return [1.0]


def not_a_number(completions, **columns):
    return [0.0, float("nan"), *[1.0] * (len(completions) - 2)]


def infinite(completions, **columns):
    return [float("inf")] * len(completions)


def words(completions, **columns):
    return ["good"] * len(completions)


def one_number(completions, **columns):
    return 1.0


@pytest.mark.parametrize(
    "reward, error, sentence",
    [
        (raises, RuntimeError, "Reward function 'raises' raised KeyError: 'no such word'"),
        (wrong_count, ValueError, "'wrong_count' returned 1 rewards for 4 completions"),
        (not_a_number, ValueError, "Reward function 'not_a_number' returned nan for completion 1"),
        (infinite, ValueError, "Reward function 'infinite' returned inf for completion 0"),
        (words, ValueError, "Reward function 'words' returned 'good' for completion 0"),
        (one_number, ValueError, "Reward function 'one_number' returned a float"),
    ],
)
def test_reward_error_is_one_sentence(reward, error, sentence, tmp_path):
    t = build(tmp_path, [reward])
    before = [p.detach().clone() for p in t.model.parameters()]
    with pytest.raises(error) as caught:
        t.train()
    assert sentence in str(caught.value)
    assert all(torch.equal(a, b) for a, b in zip(before, t.model.parameters(), strict=True))


def test_rewards_of_every_kind_keep_their_names(tmp_path):
    async def later(completions, **columns):
        return [1.0] * len(completions)

    class Scorer:
        def __call__(self, completions, number, **columns):
            return torch.tensor([float(n) for n in number])

    def scaled(completions, factor, **columns):
        return [factor] * len(completions)

    def sometimes(completions, **columns):
        return [None] * len(completions)

    rewards = [later, Scorer(), functools.partial(scaled, factor=3.0), sometimes, reward_digits]
    t = build(tmp_path, rewards)
    assert t.reward_func_names == ["later", "Scorer", "scaled", "sometimes", "reward_digits"]
    t.train()
    assert logged(t, "rewards/later/mean") == [1.0] and logged(t, "rewards/scaled/mean") == [3.0]


def test_bad_datasets_and_rewards_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"no column 'prompt', only \['question'\]"):
        build(tmp_path, data=Dataset.from_dict({"question": ["a"] * 8}))
    with pytest.raises(ValueError, match="train_dataset has 0 prompts"):
        build(tmp_path, data=Dataset.from_dict({"prompt": []}))
    with pytest.raises(ValueError, match=r"train_dataset has 1 prompts.* takes 2"):
        build(tmp_path, data=prompts(1))
    with pytest.raises(ValueError, match="reward_funcs is empty"):
        build(tmp_path, [])
    with pytest.raises(TypeError, match="reward_funcs holds a float"):
        build(tmp_path, [1.0])


def test_trls_configuration_is_refused_and_ours_is_the_default(tmp_path, monkeypatch):
    args = arguments(tmp_path, RLOOConfig, bf16=False, gradient_checkpointing=False)
    with pytest.raises(TypeError, match=r"args is a RLOOConfig.*use ZOPrOConfig"):
        ZOPrOTrainer(build_model(), reward_digits, args, prompts())

    monkeypatch.chdir(tmp_path)
    model = build_model()
    model.config._name_or_path = "some/tiny"
    # beta = 0.05 asks for a reference model, which an unsaved model has no name to load by.
    with pytest.raises(OSError):
        ZOPrOTrainer(model, reward_digits, None, prompts(), processing_class=build_tokenizer())
    assert (tmp_path / "tiny-ZOPrO").is_dir()


def test_targets_of_another_shape_are_refused(tmp_path):
    t = build(tmp_path)
    t.set_targets({n: torch.zeros(1) for n, _ in t.model.named_parameters()})
    with pytest.raises(ValueError, match="policy_update"):
        t.train()


def test_targeted_run_resumes_to_the_bit(tmp_path):
    options = {"max_steps": 4, "save_strategy": "steps", "save_steps": 2, "zo_schedule": "cosine"}
    generator = torch.Generator().manual_seed(0)
    shapes = {n: p.shape for n, p in build_model().named_parameters()}
    update = {n: torch.randn(s, generator=generator) for n, s in shapes.items()}
    reward = {n: torch.randn(s, generator=generator) for n, s in shapes.items()}
    ends = []
    for name, seed, start in (("a", 0, None), ("b", 1, str(tmp_path / "a" / "checkpoint-2"))):
        t = build(tmp_path / name, model=build_model(seed), **options)
        t.set_targets(update, reward)
        t.train(resume_from_checkpoint=start)
        ends.append([p.detach() for p in t.model.parameters()])
        assert all(g != 0 for g in logged(t, "grad_norm"))
    assert all(torch.equal(a, b) for a, b in zip(*ends, strict=True))


def test_it_raises_a_toy_reward(tmp_path):
    """Plain SPSA on the output layer: the share of even numbers among the sampled words rises."""

    def even(completions, **columns):
        return [sum(w[-1] in "02468" for w in text.split()) / 6 for text in completions]

    model = build_model()
    model.requires_grad_(False)
    model.lm_head.requires_grad_(True)
    t = build(
        tmp_path, even, model=model, max_steps=20, per_device_train_batch_size=64,
        num_generations=8, max_completion_length=6, zo_num_directions=8, zo_eps=0.02,
        learning_rate=3.0, lr_scheduler_type="constant",
    )  # fmt: skip
    t.train()
    rewards = logged(t, "reward")
    assert sum(rewards[:5]) / 5 < 0.5 and sum(rewards[-5:]) / 5 > 0.8
