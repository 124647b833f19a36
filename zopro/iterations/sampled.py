"""A second objective: the reward of fresh samples at the perturbed weights."""

from __future__ import annotations

import contextlib
from typing import Any

import torch

from zopro.directions import derive_seed
from zopro.trainer import ZOPrOTrainer

from .scoring import seeded

SAMPLES = 3  # purpose of the sampling seeds; zopro.directions has 0 to 2


class SampledRewardTrainer(ZOPrOTrainer):
    """Ascends the mean reward of samples drawn at theta +- eps z themselves.

    Where ZOPrOTrainer scores one batch of rollouts through its log-probabilities (RLOO), here each
    evaluation generates and asks the reward functions: any black box serves, and the estimate has
    no importance ratio. It costs a generation an evaluation. Constructor, data and rewards are
    ZOPrOTrainer's; `beta` and `num_iterations` have no counterpart and are refused (ValueError).

    common_samples: all evaluations of a batch draw with the same random numbers (common random
    numbers: the difference of two signs then has less variance). False: fresh ones each.
    Source: evolution strategies (arXiv 1703.03864) with ZOPrO's directions.
    """

    def __init__(self, *args: Any, common_samples: bool = True, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.beta != 0.0:
            raise ValueError(
                f"beta={self.beta!r} is refused: samples at perturbed weights have no "
                "log-probabilities here; set beta=0 and put a penalty into a reward"
            )
        if self.num_iterations != 1:
            raise ValueError(
                f"num_iterations={self.num_iterations!r} is refused: no rollouts are kept that "
                "could serve again; set it to 1"
            )
        self.common_random_numbers = common_samples

    def _prepare_inputs(self, inputs: Any) -> Any:
        # RLOO's would generate here, at the unperturbed weights.
        if not self.model.training:
            return super()._prepare_inputs(inputs)
        self._submodules_in_eval()
        size = self.args.per_device_train_batch_size
        part = self._step % self.args.steps_per_generation
        return {"rows": inputs[part * size : (part + 1) * size]}

    def _compute_loss(self, model: Any, inputs: dict[str, Any]) -> torch.Tensor:
        """Minus the mean reward, fp32 0-dim; None of a reward function counts as no sample."""
        if "rows" not in inputs:
            return super()._compute_loss(model, inputs)
        rows = inputs["rows"]
        prompts = [row["prompt"] for row in rows]
        source = contextlib.nullcontext()
        if self.common_random_numbers:
            # Of the batch alone: how long one sign's responses get moves no later batch's draws.
            seed = derive_seed(self.args.seed + self.args.process_index, SAMPLES, self._step)
            source = seeded(seed, self.accelerator.device)
        with source:
            _, ids, completions = self._generate(prompts)
        each = self._calculate_rewards(rows, prompts, completions, ids)
        applies = ~torch.isnan(each).all(dim=1)
        rewards = (each * self.reward_weights.to(each.device)).nansum(dim=1)[applies]
        if self.reward_clip_range:
            rewards = rewards.clamp(*self.reward_clip_range)
        reward = rewards.mean() if len(rewards) else torch.zeros((), device=each.device)
        self._metrics["train"]["reward"].append(reward.item())
        return -reward
