"""Preference pairs from the policy's own samples, near the reward model's decision boundary."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from accelerate.utils import broadcast_object_list
from datasets import Dataset

from .judges import judge_pairs
from .scoring import RewardScorer, plain, sample
from .training import Context, phase_seed


def nearest_zero(scores: Sequence[float], share: float) -> list[int]:
    """Positions of the ceil(share * n) scores of least absolute value, in their own order.

    Of equal ones the earlier is kept. Raises ValueError for a score that is not finite.
    """
    for i, score in enumerate(scores):
        if not math.isfinite(score):
            raise ValueError(f"the reward model scored response {i} {score}: it has diverged")
    order = sorted(range(len(scores)), key=lambda i: abs(scores[i]))
    return sorted(order[: math.ceil(share * len(scores))])


def collect(context: Context, phase: str, prompts: Dataset) -> dict[str, float]:
    """Samples, scores, chooses, samples again, asks the judge; writes the pairs to the phase's
    `pairs.jsonl` (prompt, chosen, rejected) and returns the counts.

    On the main rank alone, the others wait: a judge is loaded once. Pairs of equal responses are
    left out, those without a usable verdict dropped and counted. Raises RuntimeError where the
    judge raises, ValueError where it has no usable verdict for any pair.
    """
    found: list[Any] = [None]
    if context.run.main:
        try:
            found = [_collect(context, phase, list(prompts["prompt"]))]
        except Exception as error:  # the waiting ranks must hear of it
            found = [error]
        finally:
            getattr(context.judge, "release", lambda: None)()
    found = broadcast_object_list(found)
    if isinstance(found[0], Exception):
        raise found[0]
    rows, counts = found[0]
    context.run.write_rows(phase, "pairs.jsonl", rows)
    return counts


def _collect(
    context: Context, phase: str, prompts: list[Any]
) -> tuple[list[dict[str, Any]], dict[str, float]]:
    config = context.config
    length = config.max_prompt_length + config.max_completion_length + 1
    scorer = RewardScorer(context.reward, context.tokenizer, config.batch_size, length)

    def respond(asked: list[Any], use: str) -> list[Any]:
        return sample(
            context.policy,
            context.tokenizer,
            asked,
            max_new_tokens=config.max_completion_length,
            temperature=config.temperature,
            batch_size=config.batch_size,
            seed=phase_seed(config.seed, phase, use),
            told=context.working(phase, f"sampling, {use} responses", len(asked)),
        )

    first = respond(prompts, "first")
    scorer.told = context.working(phase, "scoring", len(prompts))
    scores = scorer(prompts, first)
    chosen = nearest_zero(scores, config.boundary)
    asked, first = [prompts[i] for i in chosen], [first[i] for i in chosen]
    second = respond(asked, "second")
    differing = [i for i, (a, b) in enumerate(zip(first, second)) if plain(a) != plain(b)]
    asked, first, second = ([column[i] for i in differing] for column in (asked, first, second))
    if hasattr(context.judge, "told"):
        context.judge.told = context.working(phase, "judging", len(asked))
    verdicts = judge_pairs(
        context.judge,
        [plain(p) for p in asked],
        [plain(r) for r in first],
        [plain(r) for r in second],
        phase_seed(config.seed, phase, "order"),
    )
    if asked and verdicts.unusable == len(asked):
        raise ValueError(
            f"the judge gave no usable verdict for any of {len(asked)} pairs: look at its replies"
        )
    rows = [
        {"prompt": prompt, "chosen": (a, b)[better], "rejected": (a, b)[1 - better]}
        for prompt, a, b, better in zip(asked, first, second, verdicts.better)
        if better is not None
    ]
    return rows, {
        "prompts": len(prompts),
        "near_boundary": len(chosen),
        "identical": len(chosen) - len(differing),
        "unusable_verdicts": verdicts.unusable,
        "pairs": len(rows),
        "mean_score": sum(scores) / len(scores),
    }
