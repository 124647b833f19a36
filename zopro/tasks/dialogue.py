"""Dialogue: the next reply.

Hub: Anthropic/hh-rlhf (hub.py), whose human comparisons a reward model can learn. Offline:
"chitchat" and "chatterbot" (conversations.py). A source is a transcript in hh-rlhf's form; local
files may give a list of messages instead.
"""

from __future__ import annotations

import re
from typing import Any

from . import conversations, hub
from .overlap import reply_reward
from .prompts import transcript, truncate, turns
from .protocol import Origin, RewardFunc, Task
from .scoring import chrf, repeated
from .splits import Row


def tidy(row: Row) -> Row:
    """The row with its source as a transcript that ends with the user's turn.

    Raises ValueError for a source without any text or with the assistant's turn at its end.
    """
    source = row["source"]
    said = turns(source) if isinstance(source, str) else list(source)
    if not said or said[-1]["role"] != "user":
        raise ValueError(
            f"the source of row {row['key']!r} ends with no turn of the user; give a transcript "
            "that ends with 'Human: ...' or messages that end with role 'user'."
        )
    return {**row, "source": transcript(said)}


def last_turn(source: str) -> str:
    """The text of a transcript's last turn."""
    said = turns(source)
    return said[-1]["content"] if said else ""


def cut(source: str, tokenizer: Any, max_tokens: int) -> str:
    """The transcript's end of at most `max_tokens` tokens, from a turn of the user's on.

    Where the last turn alone is longer, its end.
    """
    text = truncate(source, tokenizer, max_tokens, keep="end")
    start = re.search(r"(^|\n\n)Human: ", text)
    if start:
        return "\n\n" + text[start.start() :].lstrip()
    return "\n\nHuman: " + truncate(last_turn(source), tokenizer, max_tokens, keep="end")


def _embedding() -> RewardFunc:
    from .embeddings import embedding_reward

    return embedding_reward()


TASK = Task(
    name="dialogue",
    about="the next reply of a conversation",
    plain="{source}\n\nAssistant:",
    chat="{source}",
    origins={
        "hub": Origin(
            "Anthropic/hh-rlhf: dialogues with an assistant, human comparisons of answers; MIT",
            lambda split, cache: hub.dialogue_rows(split),
            pairs=lambda split, cache: hub.dialogue_pairs(split),
        ),
        "chitchat": Origin(
            "chitchat-dataset: conversations of students; MIT; names people",
            conversations.chitchat,
            build=conversations.build_chitchat,
        ),
        "chatterbot": Origin(
            "chatterbot-corpus: short questions and answers; BSD",
            conversations.chatterbot,
            build=conversations.build_chatterbot,
        ),
    },
    rewards={"reply": lambda: reply_reward, "embedding": _embedding},
    measures={
        "chrf": lambda text, row: 100 * chrf(text, row["reference"]),
        "echo": lambda text, row: max(chrf(text, t["content"]) for t in turns(row["source"])),
        "repeated": lambda text, row: repeated(text),
        "length ratio": lambda text, row: len(text) / max(len(row["reference"]), 1),
    },
    max_completion_length=48,
    distractors=4,
    messages=turns,
    last=last_turn,
    tidy=tidy,
    cut=cut,
)
