"""The paper's datasets by their hub names, through `datasets`, mapped to rows of ours.

Schemas as their cards and loading scripts state them:

- Anthropic/hh-rlhf: `chosen`, `rejected`, whole transcripts "\\n\\nHuman: ...\\n\\nAssistant: ..."
  that differ in the last answer; splits train and test. MIT.
- openai/summarize_from_feedback, `comparisons`: `info` {id, post, title, subreddit, site, article},
  `summaries` [two of {text, policy, note}], `choice`, `worker`, `batch`, `split`, `extra`; splits
  train and validation (news articles among the latter). Labels under a modified MIT licence.
- wmt/wmt20_mlqe_task1, `en-de`: `translation` {en, de}, `scores`, `mean`, `z_scores`, `z_mean`,
  `model_score`, ...; splits train, validation and test. No licence stated.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

from .prompts import turns
from .splits import Row, bucket, hash_split

if TYPE_CHECKING:
    from datasets import Dataset

_EXPORT = "refs/convert/parquet"  # the hub's own parquet copy of every dataset
_ANSWER = "\n\nAssistant:"


def read(name: str, split: str, columns: tuple[str, ...], config: str | None = None) -> Dataset:
    """One split of a hub dataset, as it is there.

    A dataset that is still a loading script, which `datasets` no longer runs, is read from the
    hub's parquet export. Raises RuntimeError when it cannot be had, ValueError when a column that
    the mapping needs is missing, each in one sentence.
    """
    import datasets

    try:
        try:
            found = datasets.load_dataset(name, config, split=split)
        except RuntimeError as error:
            if "scripts are no longer supported" not in str(error):
                raise
            found = datasets.load_dataset(name, data_dir=config, split=split, revision=_EXPORT)
    except (OSError, RuntimeError, ValueError) as error:
        told = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
        raise RuntimeError(
            f"the hub's dataset {name} could not be read; give source a local file, or 'offline' "
            f"for data that needs no hub ({told})."
        ) from error
    missing = [column for column in columns if column not in found.column_names]
    if missing:
        raise ValueError(
            f"dataset {name} has no column {missing[0]!r}; its columns are "
            f"{', '.join(found.column_names)}."
        )
    return found


def split_transcript(text: str) -> tuple[str, str]:
    """(everything before the last answer, the last answer) of a transcript of hh-rlhf."""
    context, _, answer = text.rpartition(_ANSWER)
    return context, answer.strip()


def _hh(split: str) -> Iterator[Row]:
    # There is no validation split there: a tenth of train, by hash, and train without it.
    part = "test" if split == "test" else "train"
    for row in read("Anthropic/hh-rlhf", part, ("chosen", "rejected")):
        context, chosen = split_transcript(row["chosen"])
        other, rejected = split_transcript(row["rejected"])
        said = turns(context)
        if not chosen or not said or said[-1]["role"] != "user":
            continue
        key = said[0]["content"]  # dialogues that open alike stay together
        if part == "train" and (hash_split(key) == "validation") != (split == "validation"):
            continue
        pair = context == other and rejected and rejected != chosen
        row = {"source": context, "reference": chosen, "key": key}
        yield {**row, "rejected": rejected if pair else None}


def dialogue_rows(split: str) -> Iterator[Row]:
    """hh-rlhf: source = the transcript before the last answer, reference = the chosen answer."""
    seen = set()
    for row in _hh(split):
        if row["source"] not in seen:
            seen.add(row["source"])
            yield {name: row[name] for name in ("source", "reference", "key")}


def dialogue_pairs(split: str) -> Iterator[Row]:
    """hh-rlhf: source, chosen, rejected, key. Rows whose contexts differ are left out."""
    for row in _hh(split):
        if row["rejected"]:
            yield {"chosen": row["reference"], **row}


def _comparisons(split: str) -> Iterator[Row]:
    # There is no test split there: half of validation, by hash of the post.
    part = "train" if split == "train" else "validation"
    needed = ("info", "summaries", "choice")
    for row in read("openai/summarize_from_feedback", part, needed, "comparisons"):
        info = row["info"]
        body = (info.get("post") or info.get("article") or "").strip()
        heads = (("SUBREDDIT: r/", info.get("subreddit")), ("TITLE: ", info.get("title")))
        source = "\n".join([mark + text.strip() for mark, text in heads if text] + [body])
        texts = [summary["text"].strip() for summary in row["summaries"]]
        if not body or len(texts) != 2 or not all(texts) or row["choice"] not in (0, 1):
            continue
        if split != "train" and bucket(body, 2) != (split == "test"):
            continue
        human = [t for t, s in zip(texts, row["summaries"]) if s.get("policy") == "ref"]
        yield {
            "source": source,
            "chosen": texts[row["choice"]],
            "rejected": texts[1 - row["choice"]],
            "human": human[0] if human else None,
            "key": body,
        }


def summary_rows(split: str) -> Iterator[Row]:
    """Comparisons: one row a post; reference = the human's summary, else one that was preferred."""
    posts: dict[str, Row] = {}
    for row in _comparisons(split):
        post = posts.setdefault(row["key"], row)
        post["human"] = post["human"] or row["human"]
    for post in posts.values():
        reference = post["human"] or post["chosen"]
        yield {"source": post["source"], "reference": reference, "key": post["key"]}


def summary_pairs(split: str) -> Iterator[Row]:
    """Comparisons: source, chosen, rejected, key."""
    for row in _comparisons(split):
        if row["chosen"] != row["rejected"]:
            yield {name: row[name] for name in ("source", "chosen", "rejected", "key")}


def translation_scored(split: str) -> Iterator[Row]:
    """MLQE en-de: source, completion = the machine's translation, score = z_mean, key."""
    name, needed = "wmt/wmt20_mlqe_task1", ("translation", "z_mean")
    for row in read(name, split, needed, "en-de"):
        pair, score = row["translation"], row["z_mean"]
        # -10,000 stands for "not rated" there.
        if score is not None and math.isfinite(score) and score > -1000 and pair["de"].strip():
            source = pair["en"].strip()
            yield {"source": source, "completion": pair["de"].strip(), "score": float(score),
                   "key": source}  # fmt: skip


def translation_rows(split: str) -> Iterator[Row]:
    """MLQE en-de: reference = the machine's translation where raters put it above their mean.

    The data has no human translations; half of it is left out so that references are good ones.
    """
    for row in translation_scored(split):
        if row["score"] > 0:
            yield {"source": row["source"], "reference": row["completion"], "key": row["key"]}
