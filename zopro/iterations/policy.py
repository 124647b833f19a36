"""The policy's phases: the supervised start, and reinforcement, first- or zeroth-order."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from datasets import Dataset
from peft import PeftModel
from trl import RLOOConfig, RLOOTrainer, SFTConfig, SFTTrainer

from zopro import schedules
from zopro.trainer import Resumable, ZOPrOConfig, ZOPrOTrainer
from zopro.trainer.rloo import _check_dataset, _checked, _is_plain

from .kept import KeepSamples
from .models import merge, policy_weights, snapshot
from .sampled import SampledRewardTrainer
from .scoring import RewardScorer, timed
from .training import Context, arguments, forwards_kept, phase_seed, train

# Learning rates where none is given. First-order: the method's (arXiv 2503.03460).
FIRST_ORDER_LR = 5e-5
# Zeroth-order: this over the number of trained weights, because a step moves each of them by lr
# times the slope, that is all n of them by lr |slope| sqrt(n). On 983,040 adapter weights a fixed
# 1e-4 moved the policy by 0.5 to 1.2 a step, noise mostly, where the whole first-order iteration
# before had moved it by 0.84: within 30 steps KL was 13 and every response 32 tokens of nothing.
ZEROTH_ORDER_SCALE = 10.0


class SupervisedTrainer(Resumable, SFTTrainer):
    """TRL's, resumed to the bit."""


class FirstOrderTrainer(Resumable, RLOOTrainer):
    """TRL's, resumed to the bit."""


Targets = tuple[Mapping[str, torch.Tensor], Mapping[str, torch.Tensor] | None]


def supervise(context: Context, phase: str, data: Dataset) -> dict[str, float]:
    """TRL's SFTTrainer on columns `prompt` and `completion` (or `text`, `messages`), in place.

    With adapters, what is learnt is then merged into the base (`merge`); see `start_of`.
    """
    if len(data) == 0:
        raise ValueError("the supervised data are empty: give rows, or supervised=None")
    config = context.config
    longest = config.max_prompt_length + config.max_completion_length + 1
    args = arguments(SFTConfig, context, phase, config.supervised or {}, {"max_length": longest})
    with forwards_kept(context.policy):
        trainer = SupervisedTrainer(
            model=context.policy,
            args=args,
            train_dataset=data,
            processing_class=context.tokenizer,
            callbacks=context.callbacks(phase),
        )
        if len(trainer.train_dataset) == 0:
            raise ValueError(
                f"every row of the supervised data is over max_length={args.max_length} tokens: "
                "raise max_prompt_length or shorten the texts"
            )
        return train(trainer, context, phase)


def take_supervised(context: Context, fresh: Mapping[str, torch.Tensor]) -> None:
    """The supervised adapter becomes part of the base, and a fresh one is laid over it."""
    merge(context.policy, fresh)


def reinforce(
    context: Context,
    phase: str,
    prompts: Dataset,
    method: str,
    targets: Targets | None = None,
    part: tuple[int, int] = (0, 1),
) -> dict[str, float]:
    """One policy phase on `prompts`, in place: "rloo" with AdamW, "spsa", or "zopro".

    targets: the previous updates of policy and reward model, for "zopro". part: (i, n) for the
    i-th of n chunks of an iteration, over all of which d's schedule runs.
    """
    config = context.config
    options = {**config.policy, **(config.first_order if method == "rloo" else config.zeroth)}
    fixed = {
        "max_completion_length": config.max_completion_length,
        "temperature": config.temperature,
    }
    policy = context.policy
    with forwards_kept(policy):
        try:
            trainer = _trainer(context, phase, prompts, method, {**options, **fixed})
            if targets is not None:
                steps, schedule = None, config.schedule
                if part[1] > 1:
                    steps, schedule = _over_chunks(trainer, config, part)
                trainer.set_targets(*targets, schedule=schedule, steps=steps,
                                    half_life=config.half_life)  # fmt: skip
            return train(trainer, context, phase)
        finally:
            _drop_reference(policy)


def _trainer(
    context: Context, phase: str, prompts: Dataset, method: str, options: dict[str, Any]
) -> RLOOTrainer:
    config = context.config
    rewards = [timed(f, config.reward_timeout) for f in context.reward_funcs]
    if context.reward is not None:
        length = config.max_prompt_length + config.max_completion_length + 1
        rewards = [RewardScorer(context.reward, context.tokenizer, config.batch_size, length)]
    keeper = KeepSamples(context.run, phase)
    rewards = keeper.watch(rewards)
    sketches = context.sketches(phase, "policy", lambda: policy_weights(context.policy))
    kept: dict[str, Any] = {}
    if method == "rloo":
        cls, args_cls = FirstOrderTrainer, RLOOConfig
        # As ZOPrOTrainer does: TRL's takes NaN for "does not apply".
        rewards = [_checked(f) if _is_plain(f) else f for f in rewards]
    else:
        cls, args_cls = ZOPrOTrainer, ZOPrOConfig
        options.setdefault("zo_noise_every", 100)
        options["zo_seed"] = phase_seed(config.seed, phase, "noise")
        if config.objective == "samples":
            cls, kept = SampledRewardTrainer, {"common_samples": config.common_samples}
            options.setdefault("beta", 0.0)
    rate = FIRST_ORDER_LR if method == "rloo" else zeroth_order_lr(context.policy)
    args = arguments(args_cls, context, phase, options, {"learning_rate": rate})
    _check_dataset(prompts, args)
    trainer = cls(
        model=context.policy,
        reward_funcs=rewards,
        args=args,
        train_dataset=prompts,
        processing_class=context.tokenizer,
        callbacks=[*context.callbacks(phase), keeper, *sketches],
        **kept,
    )
    if config.reference == "base":
        _drop_reference(context.policy)
    return trainer


def zeroth_order_lr(policy: Any) -> float:
    """The learning rate of a zeroth-order phase whose options name none.

    An adapter's effect is scaled by alpha / r, and with it the slope, and the effect of a step: the
    square is taken out, over that of the method's alpha / r = 2.
    """
    count = sum(p.numel() for p in policy_weights(policy).values())
    scale = 2.0
    if isinstance(policy, PeftModel):
        lora = policy.peft_config["default"]
        scale = lora.lora_alpha / lora.r
    return ZEROTH_ORDER_SCALE / count * (2.0 / scale) ** 2


def _drop_reference(policy: Any) -> None:
    # TRL lays a copy of the adapter, "ref", over an adapter that it did not make itself. Without
    # it, its reference is the base with the adapter off.
    if isinstance(policy, PeftModel) and "ref" in policy.peft_config:
        policy.delete_adapter("ref")


def _over_chunks(
    trainer: RLOOTrainer, config: Any, part: tuple[int, int]
) -> tuple[int, Callable[[int, int | None], float]]:
    """Steps of the whole iteration, and the schedule seen from chunk `part`."""
    index, count = part
    here = trainer.args.max_steps
    if here <= 0:
        here = int(
            len(trainer.get_train_dataloader())
            // trainer.args.gradient_accumulation_steps
            * trainer.args.num_train_epochs
        )
    here = max(1, here)
    total, done = here * count, here * index
    function = schedules.resolve(config.schedule, total, config.half_life)
    return total, lambda step, steps: function(step + done, total)


def weights_of(context: Context) -> dict[str, torch.Tensor]:
    """A copy of the policy's trained weights, on the CPU."""
    return snapshot(policy_weights(context.policy))
