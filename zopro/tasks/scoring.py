"""What rewards are made of: similarities and guards over single texts, all in [0, 1].

A similarity compares a completion with its reference. A guard is 1 for the reference itself, by
construction, and falls as the completion repeats itself, runs long, or copies more of the input
than the reference does. Similarity to the input never counts in a completion's favour.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import lru_cache
from itertools import pairwise
from typing import Any

_WORD = re.compile(r"\w+")


def text_of(completion: str | Sequence[dict[str, Any]] | None) -> str:
    """The text of one completion as TRL passes it, stripped: a string or a list of messages.

    Of messages only the assistant's count; contents in parts are joined, None is no text.
    """
    if completion is None or isinstance(completion, str):
        return (completion or "").strip()
    contents = [m.get("content") for m in completion if m.get("role", "assistant") == "assistant"]
    parts = [
        part if isinstance(part, str) else part.get("text") or ""
        for content in contents
        for part in ([content] if isinstance(content, str) else content or [])
    ]
    return "\n".join(parts).strip()


def words(text: str) -> list[str]:
    """The text's words in lower case, without punctuation."""
    return _WORD.findall(text.casefold())


@lru_cache(maxsize=1)
def _chrf_scorer():
    from sacrebleu.metrics import CHRF  # an optional dependency: imported where it is needed

    return CHRF()


@lru_cache(maxsize=8192)  # what a reference shares with its input is asked for every response
def chrf(text: str, reference: str) -> float:
    """sacreBLEU's sentence-level chrF (character n-grams up to 6, recall counts twice) over 100."""
    if not text.strip() or not reference.strip():
        return 0.0
    score = _chrf_scorer().sentence_score(text.strip(), [reference.strip()]).score
    return min(score / 100, 1.0)  # identical texts come out a rounding error above 100


def rouge_l(text: str, reference: str) -> float:
    """F1 of the longest common subsequence of words (ROUGE-L), in any script."""
    a, b = words(text), words(reference)
    if not a or not b:
        return 0.0
    row = [0] * (len(b) + 1)  # lengths of the common subsequences of a's prefix and b's prefixes
    for word in a:
        diagonal = 0
        for j, other in enumerate(b, 1):
            above = row[j]
            row[j] = diagonal + 1 if word == other else max(above, row[j - 1])
            diagonal = above
    return 2 * row[-1] / (len(a) + len(b))


def repeated(text: str) -> float:
    """Share of the text's word pairs that it has said before; of its words if it has under 4."""
    said = words(text)
    units: list[Any] = said if len(said) < 4 else list(pairwise(said))
    return 1 - len(set(units)) / len(units) if units else 0.0


def repetition_guard(text: str, reference: str) -> float:
    """1 less what the text repeats beyond the reference's own repetition."""
    return 1 - max(0.0, repeated(text) - repeated(reference))


def length_guard(text: str, reference: str, slack: float = 1.5, floor: int = 1) -> float:
    """1 up to `slack` times the reference's characters (at least `floor`), then as 1 / length."""
    return min(1.0, slack * max(len(reference.strip()), floor) / max(len(text.strip()), 1))


def copying_guard(text: str, reference: str, inputs: Iterable[str], margin: float = 0.0) -> float:
    """1 less the text's chrF to any of the inputs beyond the reference's own chrF to it.

    inputs: the parts of the prompt that a policy could hand back (a source text; the turns of a
    dialogue). A reference that shares names and terms with its input is not punished for them.
    margin: the excess that is free; what is beyond it is scaled, so that a copy still loses all.
    """
    excess = [chrf(text, part) - chrf(reference, part) for part in inputs]
    return 1 - max(0.0, max(excess, default=0.0) - margin) / (1 - margin)
