"""The mixin over TRL's trainers: the parents' metrics under the parents' names, and PEFT."""

import dataclasses

import pytest
import torch
from peft import LoraConfig, get_peft_model
from trainer.tiny_llama import (
    build_model,
    build_tokenizer,
    moved,
    pairs,
    prompts,
    reward_digits,
    snapshot,
    texts,
)
from trainer.tiny_trainer import arguments, logged
from transformers import TrainerCallback
from trl import (
    DPOConfig,
    DPOTrainer,
    GRPOConfig,
    GRPOTrainer,
    RLOOConfig,
    RLOOTrainer,
    SFTConfig,
    SFTTrainer,
)

from zopro import ZerothOrderMixin, ZOPrO, ZOPrOConfig, ZOPrOTrainer
from zopro.trainer import ZerothOrderArguments


@dataclasses.dataclass
class ZOSFTConfig(ZerothOrderArguments, SFTConfig):
    pass


@dataclasses.dataclass
class ZODPOConfig(ZerothOrderArguments, DPOConfig):
    pass


@dataclasses.dataclass
class ZOGRPOConfig(ZerothOrderArguments, GRPOConfig):
    pass


class ZOSFTTrainer(ZerothOrderMixin, SFTTrainer):
    pass


class ZODPOTrainer(ZerothOrderMixin, DPOTrainer):
    pass


class ZOGRPOTrainer(ZerothOrderMixin, GRPOTrainer):
    pass


GENERATE = {"num_generations": 2, "max_completion_length": 6, "beta": 0.0}
TRAINERS = {
    "sft": ((ZOSFTTrainer, ZOSFTConfig), (SFTTrainer, SFTConfig), texts, {}, {}),
    "dpo": ((ZODPOTrainer, ZODPOConfig), (DPOTrainer, DPOConfig), pairs, {}, {}),
    "rloo": (
        (ZOPrOTrainer, ZOPrOConfig),
        (RLOOTrainer, RLOOConfig),
        prompts,
        {"reward_funcs": reward_digits},
        GENERATE,
    ),
    "grpo": (
        (ZOGRPOTrainer, ZOGRPOConfig),
        (GRPOTrainer, GRPOConfig),
        prompts,
        {"reward_funcs": reward_digits},
        GENERATE,
    ),
}


def build(name, tmp_path, zeroth=True, model=None, peft_config=None, data=None, **options):
    ours, theirs, rows, extra, defaults = TRAINERS[name]
    cls, config = ours if zeroth else theirs
    args = arguments(tmp_path, config, bf16=False, **{**defaults, **options})
    if model is None:  # by name: DPO loads its reference model from there as well
        model = str(tmp_path / "model")
        build_model().save_pretrained(model)
    return cls(
        model=model,
        args=args,
        train_dataset=rows(32) if data is None else data,
        processing_class=build_tokenizer(),
        peft_config=peft_config,
        **extra,
    )


@pytest.mark.parametrize("name", TRAINERS)
def test_trains_without_gradients_under_the_parents_names(name, tmp_path):
    options = {"gradient_accumulation_steps": 2, "max_steps": 3}
    zeroth = build(name, tmp_path, zo_num_directions=2, **options)
    before = snapshot(zeroth.model)
    zeroth.train()
    assert moved(before, zeroth.model)
    assert all(p.grad is None for p in zeroth.model.parameters())
    assert len(set(logged(zeroth, "learning_rate"))) == 3

    first = build(name, tmp_path, zeroth=False, **options)
    first.train()
    ours, theirs = zeroth.state.log_history, first.state.log_history
    assert [set(entry) for entry in ours] == [set(entry) for entry in theirs]
    assert logged(zeroth, "num_tokens")[0] == logged(first, "num_tokens")[0]


@pytest.mark.parametrize("name", TRAINERS)
def test_metrics_of_a_still_model_are_the_parents(name, tmp_path):
    """lr 0 and a small eps: all but times agree, the loss under accumulation included."""
    options = {"gradient_accumulation_steps": 2, "max_steps": 2, "learning_rate": 0.0}
    histories = []
    for zeroth in (True, False):
        t = build(name, tmp_path, zeroth=zeroth, **options)
        t.train()
        histories.append(t.state.log_history)
    skip = {"grad_norm", "step_time", "rewards/accuracies"}  # the last: ties with the reference
    for ours, theirs in zip(*histories, strict=True):
        for key in set(theirs) - skip:
            if "runtime" not in key and "per_second" not in key:
                assert ours[key] == pytest.approx(theirs[key], abs=5e-3, rel=1e-3), key


class Gradients(TrainerCallback):
    """Keeps the gradients of the first step."""

    def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
        if state.global_step == 0:
            self.all = {n: p.grad.clone() for n, p in model.named_parameters()}


@pytest.mark.parametrize("name", TRAINERS)
def test_slope_is_the_parents_gradient_along_the_direction(name, tmp_path):
    options = {"gradient_accumulation_steps": 2, "max_steps": 1, "learning_rate": 0.0}
    first, gradients = (
        build(name, tmp_path, zeroth=False, max_grad_norm=0.0, **options),
        Gradients(),
    )
    first.add_callback(gradients)
    first.train()
    zeroth = build(name, tmp_path, zo_eps=1e-3, **options)
    zeroth.train()

    model = build_model()
    theta = snapshot(model)
    optimizer = ZOPrO(model.named_parameters(), eps=1.0, seed=zeroth.args.seed, restore="exact")
    with optimizer.perturbed(+1):
        z = {n: p.detach() - theta[n] for n, p in model.named_parameters()}
    exact = sum((gradients.all[n] * z[n]).sum() for n in theta).item()
    assert zeroth.zopro.last.projected_gradients[0] == pytest.approx(exact, rel=3e-2, abs=1e-3)
    assert abs(exact) > 1e-2


@pytest.mark.parametrize("name", TRAINERS)
def test_lora_moves_adapters_only(name, tmp_path):
    lora = LoraConfig(r=2, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
    t = build(name, tmp_path, peft_config=lora, zo_eps=1e-2, max_steps=2)
    before = snapshot(t.model)
    t.train()
    adapters = {n for n in before if "lora_" in n and ".ref." not in n}
    assert adapters and moved(before, t.model) <= adapters
    assert len(t.zopro.param_groups[0]["params"]) == len(adapters)


def test_reference_adapter_of_a_peft_model_stays(tmp_path):
    """TRL copies a PeftModel's adapter to "ref"; nothing may perturb or decay the copy."""
    lora = LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM")
    model = get_peft_model(build_model(), lora)
    t = build("rloo", tmp_path, model=model, beta=0.1, weight_decay=0.5, max_steps=2)
    before = snapshot(t.model)
    t.train()
    assert any(".ref." in n for n in before)
    assert moved(before, t.model) and all(".default." in n for n in moved(before, t.model))
    assert logged(t, "kl")


def test_conversational_prompts(tmp_path):
    data = prompts().map(lambda row: {"prompt": [{"role": "user", "content": row["prompt"]}]})

    def reward(prompts, completions, number, **columns):
        assert len(prompts) == len(completions) == len(number)
        return [float(len(c[0]["content"])) for c in completions]

    ours = ZOPrOTrainer(
        model=build_model(),
        reward_funcs=[reward],
        args=arguments(tmp_path, ZOPrOConfig, max_steps=2, **GENERATE),
        train_dataset=data,
        processing_class=build_tokenizer(),
    )
    ours.train()
    assert logged(ours, "rewards/reward/mean") and logged(ours, "reward")


def test_evaluation_of_rloo_keeps_its_prefix(tmp_path):
    t = ZOPrOTrainer(
        model=build_model(),
        reward_funcs=reward_digits,
        args=arguments(
            tmp_path, ZOPrOConfig, max_steps=2, eval_strategy="steps", eval_steps=1, **GENERATE
        ),
        train_dataset=prompts(),
        eval_dataset=prompts(8),
        processing_class=build_tokenizer(),
    )
    t.train()
    assert len(logged(t, "eval_reward")) == len(logged(t, "reward")) == 2


def test_sampling_does_not_depend_on_the_perturbation(tmp_path):
    """Seeding the noise must not reseed the generator that draws the responses (defect 7)."""
    responses = []
    for seed in (1, 2):
        t = build("rloo", tmp_path, zo_seed=seed, learning_rate=0.0)
        seen = []
        reward = t.reward_funcs[0]

        def keep(completions, reward=reward, seen=seen, **columns):
            seen.append(completions)
            return reward(completions=completions, **columns)

        t.reward_funcs[0] = keep
        t.train()
        responses.append(seen)
    assert responses[0] == responses[1]
    assert len({tuple(r) for r in responses[0]}) == 4


@pytest.mark.parametrize("kept", [1, 2])
def test_rollouts_kept_for_several_steps_get_fresh_directions(kept, tmp_path):
    t = build("rloo", tmp_path, num_iterations=kept, zo_num_directions=3, max_steps=4, zo_eps=1e-2)
    batches, seeds = [], set()
    reward = t.reward_funcs[0]
    t.reward_funcs[0] = lambda **k: batches.append(None) or reward(**k)
    t.reward_funcs[0].__name__ = "reward_digits"
    parent = t.compute_loss

    def compute_loss(*args, **kwargs):
        loss = parent(*args, **kwargs)
        seeds.add(t.zopro.step_count)
        return loss

    t.compute_loss = compute_loss
    t.train()
    assert len(batches) == 4 // kept and len(seeds) == 4
    assert len(t.zopro.last.projected_gradients) == 3


def test_resumed_rloo_ends_at_the_same_bits(tmp_path):
    options = {"max_steps": 4, "save_strategy": "steps", "save_steps": 2}
    whole = build("rloo", tmp_path / "a", **options)
    whole.train()
    rest = build("rloo", tmp_path / "b", model=build_model(seed=3), **options)
    rest.train(resume_from_checkpoint=str(tmp_path / "a" / "checkpoint-2"))
    assert rest.state.global_step == 4 and not moved(snapshot(whole.model), rest.model)
    assert torch.load(tmp_path / "a" / "checkpoint-2" / "optimizer.pt", weights_only=True)
