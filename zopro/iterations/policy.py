"""The policy's phases: the supervised start, and reinforcement, first- or zeroth-order."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from datasets import Dataset
from peft import PeftModel
from trl import RLOOConfig, RLOOTrainer, SFTConfig, SFTTrainer

from zopro.trainer import Resumable, ZOPrOConfig, ZOPrOTrainer, trees
from zopro.trainer.rloo import _check_dataset, _checked, _is_plain

from .chunked import InParts, Part, shares
from .kept import KeepSamples
from .models import merge, policy_weights, snapshot
from .sampled import SampledRewardTrainer
from .scoring import RewardScorer, timed
from .trained import zeroth_order_defaults, zeroth_order_lr
from .training import Context, arguments, forwards_kept, phase_seed, train

# Learning rates where none is given. First-order: the method's (arXiv 2503.03460).
FIRST_ORDER_LR = 5e-5
OPTIMIZER = "optimizer.safetensors"  # what a first-order chunk leaves to the next


class SupervisedTrainer(Resumable, SFTTrainer):
    """TRL's, resumed to the bit."""


class FirstOrderTrainer(InParts, Resumable, RLOOTrainer):
    """TRL's, resumed to the bit."""


class ZerothOrderTrainer(InParts, ZOPrOTrainer):
    """ZOPrOTrainer, on a chunk of an iteration too."""


class SampledTrainer(InParts, SampledRewardTrainer):
    """SampledRewardTrainer, likewise."""


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
    chunk: tuple[int, list[int]] | None = None,
    state: dict[str, Any] | None = None,
) -> dict[str, float]:
    """One policy phase on `prompts`, in place: "rloo" with AdamW, "spsa", or "zopro".

    targets: the previous updates of policy and reward model, for "zopro". chunk: (i, sizes)
    for the i-th of an iteration's chunks of so many prompts, over all of which the learning rate's
    and d's schedules and a budget `max_steps` run, and with "rloo" AdamW's moments (`state`: as the
    chunk before left them). With epochs, each chunk is gone through so often.
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
            part = None if chunk is None else _part(trainer, chunk, state)
            if part is not None and part.steps == 0:
                return {"steps": 0}  # of a budget smaller than the number of chunks
            if part is not None and trainer.args.max_steps > 0:
                trainer.args.max_steps = part.steps
            trainer.part = part
            if targets is not None:
                steps, schedule = None, config.schedule
                if part is not None:
                    steps, schedule = part.whole, part.schedule(config)
                trainer.set_targets(*targets, schedule=schedule, steps=steps,
                                    half_life=config.half_life)  # fmt: skip
            metrics = train(trainer, context, phase)
            if part is not None and method == "rloo" and context.run.main:
                path = context.run.file(phase, OPTIMIZER)
                path.parent.mkdir(parents=True, exist_ok=True)
                trees.save(path, trainer.optimizer.state_dict())
            return metrics
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
        cls, args_cls = ZerothOrderTrainer, ZOPrOConfig
        options = {**zeroth_order_defaults(config, options), **options}
        options.setdefault("zo_noise_every", 100)
        options["zo_seed"] = phase_seed(config.seed, phase, "noise")
        if config.objective == "samples":
            cls, kept = SampledTrainer, {"common_samples": config.common_samples}
            options.setdefault("beta", 0.0)
    rate = FIRST_ORDER_LR if method == "rloo" else zeroth_order_lr(context.policy, config)
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


def _drop_reference(policy: Any) -> None:
    # TRL lays a copy of the adapter, "ref", over an adapter that it did not make itself. Without
    # it, its reference is the base with the adapter off.
    if isinstance(policy, PeftModel) and "ref" in policy.peft_config:
        policy.delete_adapter("ref")
        # PEFT takes the active adapters from LoRA's layers: of norms alone it leaves none active.
        policy.set_adapter("default")


def _part(trainer: RLOOTrainer, chunk: tuple[int, list[int]], state: dict[str, Any] | None) -> Part:
    """The trainer's share of its iteration, of which it has chunk `chunk`."""
    index, sizes = chunk
    args = trainer.args
    unique = args.generation_batch_size // args.num_generations

    def steps_of(size: int) -> int:
        batches = len(trainer.get_train_dataloader()) // max(1, sizes[index] // unique)
        an_epoch = -(-batches * (size // unique) // args.gradient_accumulation_steps)
        return math.ceil(max(1, an_epoch) * args.num_train_epochs)

    steps = shares(sizes, args.max_steps, steps_of)
    return Part(sum(steps[:index]), steps[index], sum(steps), state)


def weights_of(context: Context) -> dict[str, torch.Tensor]:
    """A copy of the policy's trained weights, on the CPU."""
    return snapshot(policy_weights(context.policy))
