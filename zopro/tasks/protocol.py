"""What a task is: prompts, references, rewards, metrics, baselines, and where its data come from.

    task = get_task("translation")
    train = task.load("train")                     # a Dataset in TRL's prompt format
    trainer = ZOPrOTrainer(model, task.reward_funcs(), train_dataset=train, ...)
    task.metrics(completions, validation)          # {"chrf": Interval(mean, low, high, n), ...}

A plug-in is one object of this class (or one with the same attributes), named by an entry point of
group "zopro.tasks". What a task knows is data; the code that all tasks share is here.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import loading, prompts
from .candidates import KINDS, candidate, distractors
from .intervals import Interval, bootstrap
from .scoring import text_of
from .splits import Row, cache_root

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

RewardFunc = Callable[..., list[float]]  # f(prompts, completions, **columns): TRL's signature
Source = str | os.PathLike | None
Prompt = str | prompts.Messages


@dataclass(frozen=True)
class Origin:
    """One place that a task's data come from.

    rows, pairs, scored: (split, cache folder) -> rows with `source`, `key` and, in this order,
    `reference`; `chosen` and `rejected`; `completion` and `score`. None where the data lack them.
    build: (cache folder) -> rows by split; fetches what `rows` reads. None: nothing to build.
    """

    about: str
    rows: Callable[[str, Path], Iterable[Row]]
    pairs: Callable[[str, Path], Iterable[Row]] | None = None
    scored: Callable[[str, Path], Iterable[Row]] | None = None
    build: Callable[[Path], dict[str, int]] | None = None


@dataclass(frozen=True)
class Task:
    """A task.

    name, about: what users type, and one line on what is learnt.
    plain, chat: the prompt around {source}, as bare text and as the user's message.
    origins: by name; "hub" is the paper's dataset, the first of the others the default.
    rewards: factories by name; the first is the default and needs no download.
    measures: by name, (text, row) -> float, for `scores` and `metrics`, beside the reward.
    max_completion_length: tokens that most references fit into; a default for trainers.
    cut: (source, tokenizer, tokens) -> the source cut to at most so many tokens, for `fit`.
    distractors: how many references of other rows the rewards get as column `distractors`.
    messages: source -> messages, for conversational prompts that `chat` cannot write.
    last: what of a source a copy hands back (the whole; of a dialogue its last turn).
    tidy: a row of any origin -> the row, its source in this task's form.
    """

    name: str
    about: str
    plain: str
    chat: str
    origins: Mapping[str, Origin]
    rewards: Mapping[str, Callable[[], RewardFunc]]
    measures: Mapping[str, Callable[[str, Row], float]]
    max_completion_length: int
    cut: Callable[[str, Any, int], str] = prompts.truncate
    distractors: int = 0
    messages: Callable[[str], prompts.Messages] | None = None
    last: Callable[[str], str] = str.strip
    tidy: Callable[[Row], Row] = dict

    def prompt(self, source: str, conversational: bool = False) -> Prompt:
        """TRL's prompt for a source: a string, or a list of messages that ends with the user's."""
        if not conversational:
            return self.plain.replace("{source}", source)
        if self.messages is not None:
            return self.messages(source)
        return [{"role": "user", "content": self.chat.replace("{source}", source)}]

    def completion(self, text: str, conversational: bool = False) -> Prompt:
        """TRL's completion: after a plain prompt a space and the text, else one message."""
        return [{"role": "assistant", "content": text}] if conversational else " " + text.strip()

    def load(
        self,
        split: str = "train",
        source: Source = None,
        *,
        cache_dir: str | os.PathLike | None = None,
        limit: int | None = None,
        conversational: bool = False,
    ) -> Dataset:
        """Prompts and references: columns `prompt`, `source`, `reference`, `key` (all strings, but
        a conversational prompt), and `distractors` (list of strings) where the task has them.

        split: "train", "validation" or "test". source: None or "offline" (the default origin,
        built on first use), "hub", another origin's name, or a path to JSONL or parquet with
        columns `source` and `reference` (and `key`, if rows belong together; splits.local_rows).
        limit: so many rows, spread over the split by hash. conversational: prompts as messages,
        for a tokenizer with a chat template (prompts.is_chat). Raises ValueError for an unknown
        split or source, a missing column or no rows, FileNotFoundError for no such file,
        RuntimeError when data cannot be fetched.
        """
        rows = loading.read(self, "rows", split, source, cache_dir, limit)
        made: dict[str, list] = {"prompt": [self.prompt(r["source"], conversational) for r in rows]}
        made |= {name: [r[name] for r in rows] for name in ("source", "reference", "key")}
        if self.distractors:
            made["distractors"] = distractors(rows, self.distractors)
        return loading.dataset(made)

    def supervised(self, *args: Any, fit: tuple | None = None, **options: Any) -> Dataset:
        """`load` for TRL's SFTTrainer: columns `prompt` and `completion` (the reference).
        fit: (tokenizer, max_tokens), to cut prompts as Task.fit does."""
        rows = self.load(*args, **options)
        rows = rows if fit is None else self.fit(rows, *fit)
        chat = options.get("conversational", False)
        done = [self.completion(text, chat) for text in rows["reference"]]
        return loading.dataset({"prompt": rows["prompt"], "completion": done})

    def preference_pairs(
        self,
        split: str = "train",
        source: Source = None,
        *,
        cache_dir: str | os.PathLike | None = None,
        limit: int | None = None,
        conversational: bool = False,
    ) -> Dataset:
        """Pairs for TRL's RewardTrainer: columns `prompt`, `chosen`, `rejected`, `kind`.

        Human comparisons (`kind` is "human") where the source has them: the hub's for dialogue and
        summarisation, files with columns `source`, `chosen`, `rejected`. From elsewhere they are
        made: the reference against a degenerate candidate, which `kind` names (candidates.KINDS).
        `limit` counts rows read. Arguments and errors else as `load`.
        """
        rows = loading.read(self, "pairs", split, source, cache_dir, limit)
        if rows is None:
            base = loading.read(self, "rows", split, source, cache_dir, limit)
            rows = loading.made_pairs(self, base)
        made = {"prompt": [self.prompt(row["source"], conversational) for row in rows]}
        for name in ("chosen", "rejected"):
            made[name] = [self.completion(row[name], conversational) for row in rows]
        return loading.dataset({**made, "kind": [row.get("kind", "human") for row in rows]})

    def scored(
        self,
        split: str = "train",
        source: Source = None,
        *,
        cache_dir: str | os.PathLike | None = None,
        limit: int | None = None,
        conversational: bool = False,
    ) -> Dataset:
        """Completions for a regression: columns `prompt`, `completion`, `score` (float), `kind`.

        Human scores (`kind` is "human") where the source has them: the hub's for translation
        (z_mean, standard deviations of a rater), files with columns `source`, `completion`,
        `score`. From elsewhere they are made: references and degenerate candidates in turn, with
        the default reward as score. Arguments and errors else as `load`.
        """
        rows = loading.read(self, "scored", split, source, cache_dir, limit)
        if rows is None:
            base = loading.read(self, "rows", split, source, cache_dir, limit)
            rows = loading.made_scores(self, base)
        return loading.dataset(
            {
                "prompt": [self.prompt(row["source"], conversational) for row in rows],
                "completion": [self.completion(r["completion"], conversational) for r in rows],
                "score": [float(row["score"]) for row in rows],
                "kind": [row.get("kind", "human") for row in rows],
            }
        )

    def feedback(self, split: str = "train", source: Source = None) -> str:
        """ "scores" where the source has human scores and no human pairs, else "pairs"."""
        return loading.feedback(self, split, source)

    def build(self, source: Source = None, *, cache_dir: str | os.PathLike | None = None) -> dict:
        """Fetches and caches an origin's data anew; rows by split, {} where nothing is built.
        Raises ValueError for an unknown source, RuntimeError when data cannot be fetched."""
        found = loading.origin_of(self, source)
        if found is None or found[1].build is None:
            return {}
        return found[1].build(cache_root(cache_dir))

    def reward_funcs(self, *names: str) -> list[RewardFunc]:
        """The rewards of these names, the default one without any. Raises ValueError for an unknown
        name, RuntimeError when a reward's model cannot be had."""
        for name in names:
            if name not in self.rewards:
                known = ", ".join(self.rewards)
                raise ValueError(f"reward is {name!r}; for {self.name!r} choose one of {known}.")
        return [self.rewards[name]() for name in names or list(self.rewards)[:1]]

    def scores(
        self, completions: Sequence, rows: Mapping[str, Sequence] | Dataset, measures: Any = None
    ) -> dict[str, list[float]]:
        """Each measure of each completion: {"reward": [...], ...}, as long as `completions`.

        completions: strings or lists of messages. rows: the columns of `load`, one row a
        completion. measures: names to keep, all without. Raises ValueError for unequal lengths.
        """
        table = {name: list(rows[name]) for name in getattr(rows, "column_names", rows)}
        if len(completions) != len(table["reference"]):
            raise ValueError(
                f"completions has {len(completions)} items and rows has "
                f"{len(table['reference'])}; give one row a completion."
            )
        texts, found = [text_of(c) for c in completions], {}
        each = [dict(zip(table, row)) for row in zip(*table.values())]
        for name in ["reward", *self.measures]:
            if measures is None or name in measures:
                if name == "reward":
                    asked = table.pop("prompt", None) or table["source"]
                    found[name] = self.reward_funcs()[0](asked, texts, **table)
                else:
                    found[name] = [self.measures[name](*pair) for pair in zip(texts, each)]
        return found

    def metrics(
        self, completions: Sequence, rows: Mapping[str, Sequence] | Dataset
    ) -> dict[str, Interval]:
        """Mean of each of `scores` with its 95 % bootstrap interval over the items."""
        return {name: bootstrap(v) for name, v in self.scores(completions, rows).items()}

    def baselines(self, rows: Mapping[str, Sequence] | Dataset) -> dict[str, list[str]]:
        """Degenerate completions of each row, and the reference: {kind: texts}, by
        candidates.KINDS; a method that does not beat "copy" and "other" has learnt nothing."""
        table = [dict(zip(("source", "reference", "key"), r)) for r in
                 zip(rows["source"], rows["reference"], rows["key"])]  # fmt: skip
        every = range(len(table))
        return {kind: [candidate(kind, table, i, self.last) for i in every] for kind in KINDS}

    def fit(self, dataset: Dataset, tokenizer: PreTrainedTokenizerBase, max_tokens: int) -> Dataset:
        """The dataset of `load` with each prompt at most `max_tokens` tokens long.

        Where one is longer its source is cut (column `source` too), the instruction around it
        never. Raises ValueError when the instruction alone is longer.
        """
        return loading.fit(self, dataset, tokenizer, max_tokens)
