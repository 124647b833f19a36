"""Conversations out of PyPI packages, for dialogue.

"chitchat": `chitchat-dataset` 0.9.0 (MIT), 7,168 conversations of students of one university; its
ratings are not used (most are the default). It names people: no sample of it is shown anywhere.
"chatterbot": `chatterbot-corpus` 1.3.3 (BSD), its English part; small, in an assistant's manner.

A row's source is a transcript in hh-rlhf's form, the side that answers being the assistant.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

from . import packages
from .prompts import transcript
from .splits import Row, by_hash, cached, write_splits

CHITCHAT = packages.Package(
    "chitchat-dataset", "0.9.0", "7bf89f36645e2d5ec87d53370c8e851b5a688479c7beb7079cb4c87fc5acea3e"
)
CHATTERBOT = packages.Package(
    "chatterbot-corpus", "1.3.3", "86de5300afb9a80826386339d3bec79c0a72eb0358abb8327e2ecef5ae0ce154"
)
CONTEXT_TURNS = 5  # odd, so that a context begins and ends with the user
_CONTACT = re.compile(r"https?:|www\.|\S@\S|\d{3}\D?\d{4}")  # addresses and telephone numbers


def replies(said: list[str], key: str, first: int, least: int, most: int = 40) -> Iterator[Row]:
    """Rows out of one conversation of two who take turns.

    first: the earliest turn that may be a reply. least, most: words of a reply. Turns that hold
    an address or a telephone number end up in no row.
    """
    said = [" ".join(turn.split()) for turn in said]
    for i in range(max(first, 1), len(said)):
        turns = min(CONTEXT_TURNS, i - (i + 1) % 2)  # odd: the user speaks first and last
        context = said[i - turns : i]
        if not least <= len(said[i].split()) <= most or not all(context):
            continue
        if any(_CONTACT.search(turn) or len(turn.split()) > 80 for turn in [*context, said[i]]):
            continue
        roles = ("user", "assistant")
        messages = [{"role": roles[j % 2], "content": turn} for j, turn in enumerate(context)]
        yield {"source": transcript(messages), "reference": said[i], "key": key}


def chitchat_replies(conversations: dict[str, dict[str, Any]]) -> Iterator[Row]:
    """Rows of conversations of both sides with at least four turns; greetings are no replies."""
    for name, conversation in conversations.items():
        messages = [m for m in conversation["messages"] if m]
        senders = [m[0]["sender"] for m in messages]
        if len(messages) < 4 or any(a == b for a, b in pairwise(senders)):
            continue
        said = [" ".join(part["text"] for part in message) for message in messages]
        yield from replies(said, name, first=3, least=4)


def chatterbot_replies(texts: Iterable[str]) -> Iterator[Row]:
    """Rows of the corpus's YAML files; a question's answers stay in one split."""
    import yaml

    seen = set()
    for text in texts:
        # BaseLoader makes strings alone: "- Yes" is a word here, not a truth value.
        for said in yaml.load(text, Loader=yaml.BaseLoader)["conversations"]:
            for row in replies(said, said[0].strip().casefold(), first=1, least=2):
                mark = (row["source"], row["reference"])
                if mark not in seen:
                    seen.add(mark)
                    yield row


def build_chitchat(cache: Path) -> dict[str, int]:
    """Builds the cache; rows by split. RuntimeError when the package cannot be fetched."""
    wheel = packages.fetch(CHITCHAT, cache)
    found = json.loads(packages.read(wheel, "chitchat_dataset/dataset.json"))
    return write_splits(cache / "chitchat-1", by_hash(chitchat_replies(found)))


def build_chatterbot(cache: Path) -> dict[str, int]:
    """Builds the cache; rows by split. RuntimeError when the package cannot be fetched."""
    wheel = packages.fetch(CHATTERBOT, cache)
    files = [n for n in packages.names(wheel) if "/english/" in n and n.endswith(".yml")]
    texts = [packages.read(wheel, name) for name in sorted(files) if "coding" not in name]
    return write_splits(cache / "chatterbot-1", by_hash(chatterbot_replies(texts)))


def chitchat(split: str, cache: Path) -> list[Row]:
    """The rows of one split of chitchat, built on first use."""
    return cached(cache / "chitchat-1", split, lambda: build_chitchat(cache))


def chatterbot(split: str, cache: Path) -> list[Row]:
    """The rows of one split of chatterbot, built on first use."""
    return cached(cache / "chatterbot-1", split, lambda: build_chatterbot(cache))
