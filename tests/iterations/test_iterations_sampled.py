"""The reward of fresh samples at theta +- eps z, and fresh seeds for epochs and minibatches."""

import itertools

import pytest
import torch
from iterations.tiny_run import data, run
from trainer.tiny_llama import build_model, build_tokenizer, prompts, reward_digits
from trainer.tiny_trainer import Reports, arguments, logged

from zopro import ZOPrOConfig, ZOPrOTrainer
from zopro.iterations import SampledRewardTrainer


def build(
    tmp_path, reward=reward_digits, cls=SampledRewardTrainer, model=None, more=None, **options
):
    defaults = {"num_generations": 2, "max_completion_length": 4, "beta": 0.0, "max_steps": 2}
    return cls(
        model=build_model() if model is None else model,
        reward_funcs=reward,
        args=arguments(tmp_path, ZOPrOConfig, **{**defaults, **options}),
        train_dataset=prompts(),
        processing_class=build_tokenizer(),
        **(more or {}),
    )


def test_rewards_are_of_samples_at_both_signs(tmp_path):
    theta = build_model().lm_head.weight.detach().clone()
    where = []

    def reward(completions, **columns):
        where.append((t.model.lm_head.weight.detach() - theta).clone())
        return [float(len(where))] * len(completions)

    t = build(tmp_path, reward, max_steps=1, zo_eps=0.1, learning_rate=0.0)
    t.train()
    plus, minus = where  # two generations a step, none at the unperturbed weights
    torch.testing.assert_close(plus, -minus, rtol=1e-4, atol=1e-6)
    assert plus.abs().mean().item() == pytest.approx(0.1, rel=1e-4)
    # The loss is minus the mean reward, its slope the difference of the two.
    assert logged(t, "loss") == [-1.5]
    assert t.zopro.last.losses_plus == (-1.0,) and t.zopro.last.losses_minus == (-2.0,)


def texts_of(tmp_path, **more):
    seen = []

    def reward(completions, **columns):
        seen.append(list(completions))
        return [0.0] * len(completions)

    # So small a perturbation changes no sample by itself.
    build(tmp_path, reward, zo_eps=1e-7, more=more, max_completion_length=6).train()
    return seen


def test_common_random_numbers_are_an_option(tmp_path):
    same = texts_of(tmp_path / "a")
    assert same[0] == same[1] and same[2] == same[3] and same[0] != same[2]
    apart = texts_of(tmp_path / "b", common_samples=False)
    assert apart[0] != apart[1]


def test_sampling_seeds_leave_the_global_generator_alone(tmp_path):
    states = []

    def reward(completions, **columns):
        states.append(torch.get_rng_state())
        return [0.0] * len(completions)

    t = build(tmp_path, reward, max_steps=1)
    before = torch.get_rng_state()
    t._step = 0
    with torch.no_grad():
        t.model.train()
        rows = {"rows": [{"prompt": "w1 w2"}] * 4}
        t._current_train_step_time = 0.0
        t._compute_loss(t.model, rows)
    assert torch.equal(torch.get_rng_state(), before) and len(states) == 1


def test_accumulated_batches_are_slices(tmp_path):
    asked = []

    def reward(prompts, completions, number, **columns):
        asked.append(tuple(number))
        return [0.0] * len(completions)

    build(tmp_path, reward, gradient_accumulation_steps=2, max_steps=1).train()
    assert len(asked) == 4 and asked[0] == asked[1] != asked[2] == asked[3]
    assert all(len(a) == 4 for a in asked)


def test_it_raises_a_toy_reward(tmp_path):
    def even(completions, **columns):
        return [sum(w[-1] in "02468" for w in text.split()) / 6 for text in completions]

    model = build_model()
    model.requires_grad_(False)
    model.lm_head.requires_grad_(True)
    t = build(
        tmp_path, even, model=model, max_steps=20, per_device_train_batch_size=64,
        num_generations=8, max_completion_length=6, zo_num_directions=4, zo_eps=0.1,
        learning_rate=3.0, lr_scheduler_type="constant",
    )  # fmt: skip
    t.train()
    rewards = logged(t, "reward")
    assert sum(rewards[-5:]) / 5 > sum(rewards[:5]) / 5 + 0.1


@pytest.mark.parametrize(
    "name, value",
    [
        ("beta", 0.1),
        ("epsilon", 0.1),
        ("epsilon_high", 0.3),
        ("num_iterations", 2),
        ("normalize_advantages", True),
        ("mask_truncated_completions", True),
    ],
)
def test_what_has_no_counterpart_is_refused(name, value, tmp_path):
    build_model().save_pretrained(tmp_path / "model")  # where beta's reference is loaded from
    with pytest.raises(ValueError, match=f"^{name}={value} is refused: .*; set it to "):
        build(tmp_path, model=str(tmp_path / "model"), **{name: value})


def test_reference_to_sync_is_refused(tmp_path):
    with pytest.raises(ValueError, match="sync_ref_model"):
        build(tmp_path, sync_ref_model=True)


def test_vllm_gets_the_perturbed_weights(tmp_path):
    """TRL hands a step's weights over once; here every evaluation samples at others."""
    weights = []

    class Engine:
        def sync_weights(self):
            weights.append(t.model.lm_head.weight.detach().clone())

        def generate(self, prompts, **more):
            return prompts, [[5, 6]] * len(prompts), None, None

    options = {"gradient_accumulation_steps": 2, "learning_rate": 0.0, "zo_num_directions": 2}
    t = build(tmp_path, max_steps=1, **options)
    t.use_vllm, t.vllm_generation, t._last_loaded_step = True, Engine(), -1
    t.train()
    assert len(weights) == 2 * 2 * 2
    assert all(not torch.equal(a, b) for a, b in itertools.pairwise(weights))


def test_iterations_with_samples(tmp_path):
    out = run(tmp_path / "run", objective="samples", zeroth={"beta": 0.0})
    assert out.phases[-1] == "1.updates"
    rows = {"prompts": data()["prompts"]}
    call = {"reward_funcs": [reward_digits]}
    zeroth = {"beta": 0.0, "zo_eps": 0.5, "zo_num_directions": 4}
    run(tmp_path / "plain", rows, call=call, objective="samples", zeroth=zeroth, first="spsa")


def test_an_iteration_that_moved_nothing(tmp_path):
    """Samples are discrete: at too small an eps both signs draw the same, and the slope is 0."""
    rows = {"prompts": data()["prompts"]}
    call = {"reward_funcs": [reward_digits]}
    zeroth = {"beta": 0.0, "zo_eps": 1e-6}
    with pytest.raises(ValueError, match="iteration 0 moved no weight of the policy, so iterat"):
        run(tmp_path / "run", rows, call=call, objective="samples", zeroth=zeroth, first="spsa")


@pytest.mark.parametrize(
    "options",
    [
        {"num_iterations": 3},  # inner epochs on one batch of rollouts
        {"steps_per_generation": 3},  # minibatches of one generation
        {"num_train_epochs": 2, "max_steps": -1},  # passes over the prompts
    ],
)
def test_inner_epochs_and_minibatches_have_fresh_seeds(options, tmp_path):
    t = build(tmp_path, cls=ZOPrOTrainer, **{"max_steps": 6, **options})
    reports = Reports()
    t.add_callback(reports)
    t.train()
    seeds = [report.seed for report in reports.all]
    assert len(seeds) >= 6 and len(set(seeds)) == len(seeds)
