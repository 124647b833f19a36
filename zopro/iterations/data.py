"""The run's data: a task's, or datasets of the caller's; checked before a model is loaded."""

from __future__ import annotations

import hashlib
import itertools
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from zopro.tasks.protocol import Task

from .config import IterationConfig
from .scoring import prompt_lengths

logger = logging.getLogger(__name__)


@dataclass
class Data:
    """prompts: column `prompt`, and whatever the reward functions read. reward: `prompt`, `chosen`,
    `rejected`, or `prompt`, `completion`, `score`; None without a network. supervised: `prompt`,
    `completion`; None without a supervised start. Datasets of text or of messages."""

    prompts: Dataset
    reward: Dataset | None = None
    supervised: Dataset | None = None


def gather(
    config: IterationConfig,
    source: Task | Mapping[str, Dataset],
    tokenizer: PreTrainedTokenizerBase,
    network_reward: bool,
    load: Mapping[str, Any],
) -> Data:
    """The data of a task (its train split; `load` goes to its loaders), or a mapping with the
    entries "prompts", "reward" and "supervised".

    A task's prompts are cut to max_prompt_length. Raises ValueError for what is missing, empty, or
    (of a mapping) too long.
    """
    learns = network_reward and config.reward_model is None
    if isinstance(source, Mapping):
        data = _given(source)
    else:
        options = {"conversational": tokenizer.chat_template is not None, **load}
        prompts = source.load("train", **options)
        prompts = _fitted(source, prompts, tokenizer, config.max_prompt_length)
        reward = None
        if learns:
            scored = config.reward_data == "scores"
            if config.reward_data == "auto" and hasattr(source, "feedback"):
                scored = source.feedback("train", load.get("source")) == "scores"
            reward = (source.scored if scored else source.preference_pairs)("train", **options)
        supervised = None if config.supervised is None else source.supervised("train", **options)
        data = Data(prompts, reward, supervised)
    needs = {"prompts": data.prompts}
    if learns:
        needs["reward"] = data.reward
    if config.supervised is not None:
        needs["supervised"] = data.supervised
    for name, dataset in needs.items():
        if dataset is None:
            raise ValueError(f"the data have no {name!r}: give a dataset for it")
        if len(dataset) == 0:
            raise ValueError(f"the dataset {name!r} is empty: give rows")
    _columns(config, data, learns)
    _lengths(config, data.prompts, tokenizer)
    return data


def _fitted(task: Task, prompts: Dataset, tokenizer: Any, tokens: int) -> Dataset:
    """Task.fit, which says how many prompts it cut."""
    fitted = task.fit(prompts, tokenizer, tokens)
    cut = sum(a != b for a, b in zip(prompts["prompt"], fitted["prompt"]))
    if cut:
        logger.info("%d of %d prompts are over max_prompt_length=%d tokens: cut to that",
                    cut, len(prompts), tokens)  # fmt: skip
    return fitted


def _given(source: Mapping[str, Dataset]) -> Data:
    known = ("prompts", "reward", "supervised")
    for name, dataset in source.items():
        if name not in known:
            raise ValueError(f"the data hold {name!r}: use {', '.join(known)}")
        if dataset is not None and not isinstance(dataset, Dataset):
            raise TypeError(f"the data's {name!r} is a {type(dataset).__name__}: give a Dataset")
    return Data(source.get("prompts"), source.get("reward"), source.get("supervised"))


def _columns(config: IterationConfig, data: Data, learns: bool) -> None:
    needed = {"prompts": ("prompt",)}
    if learns:
        scored = ("prompt", "completion", "score")
        pairs = ("prompt", "chosen", "rejected")
        kind = config.reward_data
        if kind == "auto":
            held = set(data.reward.column_names)
            kind = "scores" if "score" in held and not held & {"chosen", "rejected"} else "pairs"
        needed["reward"] = scored if kind == "scores" else pairs
    for name, columns in needed.items():
        dataset = getattr(data, name)
        for column in columns:
            if column not in dataset.column_names:
                raise ValueError(
                    f"the dataset {name!r} has no column {column!r}, only "
                    f"{sorted(dataset.column_names)}: rename one to it"
                )


def _lengths(config: IterationConfig, prompts: Dataset, tokenizer: Any) -> None:
    lengths = prompt_lengths(prompts["prompt"], tokenizer)
    worst = max(range(len(lengths)), key=lengths.__getitem__)
    if lengths[worst] > config.max_prompt_length:
        raise ValueError(
            f"prompt {worst} has {lengths[worst]} tokens, over max_prompt_length="
            f"{config.max_prompt_length}: shorten or drop it, or raise the limit"
        )


def chunks(prompts: Dataset, share: float | None) -> list[Dataset]:
    """The prompts in round(1 / share) consecutive parts, whose sizes differ by one at most."""
    count = 1 if share is None else max(1, min(round(1 / share), len(prompts)))
    edges = [len(prompts) * k // count for k in range(count + 1)]
    return [prompts.select(range(a, b)) for a, b in itertools.pairwise(edges)]


def digests(data: Data) -> dict[str, str]:
    """SHA-256 of each dataset's rows: a run goes on with the data that it began with."""
    found = {}
    for name, dataset in vars(data).items():
        if dataset is not None:
            sha = hashlib.sha256()
            for row in dataset:
                sha.update(json.dumps(row, sort_keys=True, default=str).encode())
            found[name] = sha.hexdigest()
    return found
