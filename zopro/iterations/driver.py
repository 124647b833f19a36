"""`iterate`: the phases of a run in their order, each resumable."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from datasets import Dataset
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase, TrainerCallback

from zopro.tasks.protocol import Task

from .config import IterationConfig
from .data import digests, gather
from .given import read_reward
from .identity import identity
from .judges import Judge
from .models import RewardModel, load_policy, prepare_tokenizer
from .phases import Run
from .store import RunFolder
from .training import Context


@dataclass
class Outcome:
    """What a run left: the models (on one base), the tokenizer, and the folder."""

    policy: PreTrainedModel
    reward: RewardModel | None
    tokenizer: PreTrainedTokenizerBase
    folder: Path
    phases: list[str]


def iterate(
    config: IterationConfig,
    data: Task | Mapping[str, Dataset],
    *,
    judge: Judge | None = None,
    reward_funcs: Sequence[Any] | None = None,
    model: PreTrainedModel | None = None,
    tokenizer: PreTrainedTokenizerBase | None = None,
    callbacks: Sequence[TrainerCallback] = (),
    load: Mapping[str, Any] | None = None,
) -> Outcome:
    """Runs ZOPrO's iterations (arXiv 2503.03460) to their end, or goes on with an interrupted run.

    Phases: supervised start (optional), reward model; then in each iteration the policy's phase
    (iteration 0: first-order RLOO, arXiv 2402.14740, or plain SPSA), pairs from the policy's own
    samples near the reward model's decision boundary, a judge, and the reward model's refinement.
    What policy and reward model moved in an iteration are the targets of the next one's directions.

    data: a task, or a mapping with the datasets "prompts" (column `prompt`), "reward" (pairs or
        scores) and "supervised"; `load` goes to a task's loaders (source, limit, ...).
    judge: (prompts, firsts, seconds) -> 0, 1 or anything else for each; see `judges`. Needed
        unless `reward_funcs` are given.
    reward_funcs: functions f(prompts, completions, **columns) -> list[float] instead of a reward
        network; then nothing is refined and no reward update takes part (v is left out).
    model, tokenizer: loaded ones, instead of `config.model`'s. The model is modified.
    callbacks: for every phase's trainer.

    Raises ValueError, TypeError, RuntimeError or FileExistsError, one sentence each, for what does
    not serve; everything that can be checked is, before the first phase.
    """
    network = not reward_funcs
    if network and judge is None:
        raise ValueError("judge=None: give a judge for the reward model, or reward_funcs")
    if not network and judge is not None:
        raise ValueError("judge is given beside reward_funcs, which are not refined: give one")
    if judge is not None and not callable(judge):
        raise TypeError(f"judge is a {type(judge).__name__}: give a callable")
    for name in ("chunk", "reward_model"):
        if not network and getattr(config, name) is not None:
            raise ValueError(
                f"{name} is given beside reward_funcs, which are no network: leave it out"
            )
    if tokenizer is None:
        if config.model is None:
            raise ValueError("tokenizer=None: hand iterate() the tokenizer of its model")
        tokenizer = AutoTokenizer.from_pretrained(config.model, trust_remote_code=False)
    prepare_tokenizer(tokenizer)
    gathered = gather(config, data, tokenizer, network, load or {})
    # The ranks' state is the first caller's to settle, and by itself it joins none on a CPU.
    cpu = bool(config.trainer.get("use_cpu")) or not torch.accelerator.is_available()
    main = PartialState(cpu=cpu).is_main_process
    run = RunFolder(
        config.output_dir, config.to_dict(), config.resume, main, digests(gathered) if main else {}
    )
    run.state = broadcast_object_list([run.state])[0]
    policy, reward = load_policy(config, model, network)
    _lengths_fit(config, policy)
    rewards = list(reward_funcs or [])
    context = Context(config, run, policy, reward, tokenizer, rewards, judge, list(callbacks))
    given = config.reward_model
    if given is not None and "reward" not in run.done:
        context.first_reward = read_reward(given, config, reward)
    if main:
        run.identify(identity(policy, tokenizer, judge, rewards, context.first_reward))
    with run.locked():
        run.create()
        Run(context, gathered).go()
    return Outcome(policy, reward, tokenizer, run.path, run.done)


def _lengths_fit(config: IterationConfig, policy: PreTrainedModel) -> None:
    room = getattr(policy.config.get_text_config(), "max_position_embeddings", None)
    needed = config.max_prompt_length + config.max_completion_length + 1
    if room is not None and needed > room:
        raise ValueError(
            f"max_prompt_length + max_completion_length and the end token are {needed} tokens, and "
            f"the model has {room} positions: lower them"
        )
