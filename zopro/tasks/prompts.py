"""Prompts: plain text or chat messages, and cutting the source (never the instruction) to fit."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Messages = list[dict[str, str]]

_TURN = re.compile(r"\s*(Human|Assistant): ?")
_BREAK = re.compile(r"\n\n(?=(?:Human|Assistant):)")
_ROLES = {"Human": "user", "Assistant": "assistant"}
_SPEAKERS = {"user": "Human", "assistant": "Assistant", "system": "Human"}


def transcript(messages: Sequence[dict[str, str]]) -> str:
    """Messages as one text in hh-rlhf's form: "\\n\\nHuman: ...\\n\\nAssistant: ..."."""
    return "".join(f"\n\n{_SPEAKERS[m['role']]}: {m['content'].strip()}" for m in messages)


def turns(text: str) -> Messages:
    """The messages of a transcript in hh-rlhf's form; neighbours of one speaker are joined.

    A text without any speaker's mark is one message of the user. An empty turn, as the
    "\\n\\nAssistant:" that asks for an answer, is left out.
    """
    messages: Messages = []
    for part in _BREAK.split("\n\n" + text.strip()):
        mark = _TURN.match(part)
        role = _ROLES[mark[1]] if mark else "user"
        content = (part[mark.end() :] if mark else part).strip()
        if content and messages and messages[-1]["role"] == role:
            messages[-1]["content"] += "\n" + content
        elif content:
            messages.append({"role": role, "content": content})
    return messages


def is_chat(tokenizer: Any) -> bool:
    """Whether the tokenizer has a chat template, so that prompts should be conversational."""
    return bool(getattr(tokenizer, "chat_template", None))


def count_tokens(prompt: str | Messages, tokenizer: PreTrainedTokenizerBase) -> int:
    """Tokens of a prompt as a trainer feeds it (chat template and answer's opening included)."""
    if not isinstance(prompt, str):
        prompt = tokenizer.apply_chat_template(prompt, tokenize=False, add_generation_prompt=True)
        return len(tokenizer(prompt, add_special_tokens=False)["input_ids"])
    return len(tokenizer(prompt)["input_ids"])


def truncate(
    text: str, tokenizer: PreTrainedTokenizerBase, max_tokens: int, keep: str = "start"
) -> str:
    """The text cut to at most `max_tokens` tokens, special tokens not counted.

    keep: "start" or "end", the part that stays. The cut falls between the tokens of the whole
    text where the tokenizer gives offsets, so that no character is invented or lost.
    Raises ValueError for a negative budget or another `keep`.
    """
    if max_tokens < 0 or keep not in ("start", "end"):
        raise ValueError(
            f"max_tokens is {max_tokens} and keep is {keep!r}; give a budget of at least 0 and "
            "'start' or 'end'."
        )
    offsets = bool(getattr(tokenizer, "is_fast", False))
    coded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=offsets)
    ids = coded["input_ids"]
    if len(ids) <= max_tokens:
        return text
    for budget in range(max_tokens, 0, -1):
        if offsets:
            spans = coded["offset_mapping"]
            cut = text[: spans[budget - 1][1]] if keep == "start" else text[spans[-budget][0] :]
        else:
            cut = tokenizer.decode(ids[:budget] if keep == "start" else ids[-budget:])
        # What is cut off may split anew into more tokens than it had within the whole.
        if len(tokenizer(cut.strip(), add_special_tokens=False)["input_ids"]) <= max_tokens:
            return cut.strip()
    return ""
