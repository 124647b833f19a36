"""The reward model's phases: the first one from pairs or scores, and its refinement."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from datasets import Dataset
from transformers import PreTrainedModel, Trainer
from trl import RewardConfig, RewardTrainer

from zopro.trainer import Resumable

from .config import IterationConfig
from .models import REWARD, RewardModel, active, snapshot
from .scoring import padded, whole
from .training import Context, arguments, train

# Of rewards from pairs, because "near the decision boundary" means near 0.
CENTRED = {"center_rewards_coefficient": 0.01}


class PairTrainer(Resumable, RewardTrainer):
    """TRL's, resumed to the bit."""


class ScoreTrainer(Resumable, Trainer):
    """Regression of a sequence classifier on scores: the mean squared error of its one logit.

    train_dataset: columns `prompt`, `completion` (text or messages) and `score` (float); rows of
    over `args.max_length` tokens are left out, as TRL's RewardTrainer does.
    """

    loss_is_scaled_for_ga = False  # a mean over the micro-batch, as RewardTrainer's

    def __init__(self, model: PreTrainedModel, args: RewardConfig, train_dataset: Dataset,
                 processing_class: Any, callbacks: Any = None) -> None:  # fmt: skip
        pad = processing_class.pad_token_id
        rows = [
            {
                "input_ids": whole(r["prompt"], r["completion"], processing_class),
                "score": r["score"],
            }
            for r in train_dataset
        ]
        if args.max_length is not None:
            rows = [row for row in rows if len(row["input_ids"]) <= args.max_length]
        args.remove_unused_columns = False

        def collate(batch: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
            ids, mask = padded([row["input_ids"] for row in batch], pad)
            score = torch.tensor([row["score"] for row in batch], dtype=torch.float32)
            return {"input_ids": ids, "attention_mask": mask, "score": score}

        super().__init__(model, args, collate, rows, callbacks=callbacks)
        self.model_accepts_loss_kwargs = False

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """inputs: ids and mask, int64 [B, T], and score, fp32 [B]."""
        outputs = model(inputs["input_ids"], inputs["attention_mask"])
        loss = torch.nn.functional.mse_loss(outputs.logits[:, 0], inputs["score"])
        return (loss, outputs) if return_outputs else loss


def learn(
    context: Context, phase: str, reward: RewardModel, data: Dataset, options: Mapping[str, Any]
) -> dict[str, float]:
    """Trains `reward` in place, on pairs (`chosen`, `rejected`) or, with a column `score`, on
    scores. Raises ValueError for data that are empty, or whose rows are all too long."""
    config: IterationConfig = context.config
    if len(data) == 0:
        raise ValueError(f"the reward model's data are empty in phase {phase!r}: give rows")
    cls = ScoreTrainer if "score" in data.column_names else PairTrainer
    keep = ("prompt", "chosen", "rejected", "completion", "score", "margin")
    data = data.remove_columns([c for c in data.column_names if c not in keep])
    longest = config.max_prompt_length + config.max_completion_length + 1  # and the end token
    defaults = {"max_length": longest, "disable_dropout": False, **CENTRED}
    args = arguments(RewardConfig, context, phase, options, defaults)
    policy = reward._policy[0]
    with active(policy, REWARD):
        trainer = cls(
            model=reward,
            args=args,
            train_dataset=data,
            processing_class=context.tokenizer,
            callbacks=[
                *context.callbacks(phase),
                *context.sketches(phase, "reward", reward.own),
            ],
        )
        if len(trainer.train_dataset) == 0:
            raise ValueError(
                f"every row of the reward model's data is over max_length={args.max_length} "
                f"tokens in phase {phase!r}: raise max_prompt_length or shorten the texts"
            )
        # Rows that are too long are left out by the trainers, and said to be.
        left_out = len(data) - len(trainer.train_dataset)
        return {"rows_too_long": left_out, **train(trainer, context, phase)}


def blend(reward: RewardModel, before: Mapping[str, torch.Tensor], share: float) -> None:
    """reward <- (1 - share) reward + share before, in place (ZOPrO's blended reward model).

    The tensors of an adapter are blended one by one, A and B each, so the blend of the products is
    not exact; adapters that differ by one refinement are close.
    """
    if share == 0.0:
        return
    with torch.no_grad():
        for name, p in reward.own().items():
            p.lerp_(before[name].to(p.device, p.dtype), share)


def update(
    after: Mapping[str, torch.Tensor], before: Mapping[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """after - before of each tensor, fp32 on the CPU."""
    after = snapshot(after)
    return {name: after[name].float() - before[name].float() for name in after}
