"""A second objective: the reward of fresh samples at the perturbed weights."""

from __future__ import annotations

import contextlib
from typing import Any

import torch

from zopro.seeds import derive_seed
from zopro.trainer import ZOPrOTrainer
from zopro.trainer.evaluation import submodules_in_eval

from .scoring import seeded

SAMPLES = 3  # purpose of the sampling seeds; zopro.directions has 0 to 2
_NO_LOGPS = "samples at perturbed weights have no log-probabilities here"
# Fields of RLOOConfig: the one value that is right here, and why no other.
NO_COUNTERPART = {
    "beta": (0.0, f"{_NO_LOGPS}, so put a penalty into a reward"),
    "sync_ref_model": (False, f"{_NO_LOGPS}, so there is no reference model"),
    "epsilon": (0.2, f"{_NO_LOGPS}, so there is no ratio to clip"),
    "epsilon_high": (None, f"{_NO_LOGPS}, so there is no ratio to clip"),
    "num_iterations": (1, "no rollouts are kept that could serve again"),
    "normalize_advantages": (False, "the objective is the mean reward itself"),
    "mask_truncated_completions": (False, "the objective is the mean reward of all samples"),
}


class SampledRewardTrainer(ZOPrOTrainer):
    """Ascends the mean reward of samples drawn at theta +- eps z themselves.

    Where ZOPrOTrainer scores one batch of rollouts through its log-probabilities (RLOO), here each
    evaluation generates and asks the reward functions: any black box serves, and the estimate has
    no importance ratio. It costs a generation an evaluation. Constructor, data and rewards are
    ZOPrOTrainer's; what belongs to kept rollouts and their log-probabilities (`beta`, `epsilon`,
    `num_iterations`, `normalize_advantages`, ...) has no counterpart and is refused (ValueError).

    common_samples: all evaluations of a batch draw with the same random numbers (common random
    numbers: the difference of two signs then has less variance). False: fresh ones each.
    Source: evolution strategies (arXiv 1703.03864) with ZOPrO's directions.
    """

    scores_rollouts = False

    def __init__(self, *args: Any, common_samples: bool = True, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        for name, (value, reason) in NO_COUNTERPART.items():
            given = getattr(self.args, name)
            if given != value:
                raise ValueError(f"{name}={given!r} is refused: {reason}; set it to {value!r}")
        self.common_random_numbers = common_samples

    def _prepare_inputs(self, inputs: Any) -> Any:
        # RLOO's would generate here, at the unperturbed weights.
        if not self.model.training:
            return super()._prepare_inputs(inputs)
        submodules_in_eval(self.model)
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
        if self.use_vllm:
            self._last_loaded_step = -1  # TRL loads a step's weights once, and these are others
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
