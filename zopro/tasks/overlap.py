"""The tasks' default rewards: likeness to the reference, times guards, less chance.

Each is a plain function with TRL's signature; `reference` and `source` are columns of `load`.
The reference itself scores 1 in all of them, the empty text 0 (in dialogue -1, chance being 0).
What else scores what, on real data: benchmarks/reward_baselines.py.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from .prompts import turns
from .scoring import (
    chrf,
    copying_guard,
    length_guard,
    repetition_guard,
    rouge_l,
    text_of,
)

Completions = Sequence  # of strings, or of lists of messages
Likeness = Callable[[str, str], float]


def summary_likeness(text: str, reference: str) -> float:
    """Half ROUGE-L (words in order), half chrF (word forms)."""
    return (rouge_l(text, reference) + chrf(text, reference)) / 2


def chrf_reward(prompts, completions: Completions, reference, source, **_) -> list[float]:
    """Translation: chrF against the reference, times guards of copying, repetition and length."""
    found = []
    for completion, target, given in zip(completions, reference, source, strict=True):
        text = text_of(completion)
        guards = copying_guard(text, target, [given]) * repetition_guard(text, target)
        found.append(chrf(text, target) * guards * length_guard(text, target))
    return found


def overlap_reward(prompts, completions: Completions, reference, **_) -> list[float]:
    """Summarisation: ROUGE-L and chrF against the reference, times guards of length, repetition.

    A summary may use the input's own words, so there is no guard against copying: what is copied
    whole is too long, and what is copied in part scores what it has in common with the reference.
    """
    found = []
    for completion, target in zip(completions, reference, strict=True):
        text = text_of(completion)
        guards = length_guard(text, target) * repetition_guard(text, target)
        found.append(summary_likeness(text, target) * guards)
    return found


def above_chance(text: str, target: str, others: Sequence[str], likeness: Likeness) -> float:
    """How much more the text is like its reference than like other rows' references.

    Scaled so that the reference itself has 1; a text that suits any row alike has 0, and one that
    suits others better is below.
    """
    if not others:
        return likeness(text, target)
    chance = sum(likeness(text, other) for other in others) / len(others)
    top = 1 - sum(likeness(target, other) for other in others) / len(others)
    return (likeness(text, target) - chance) / max(top, 0.1)


def guarded_reply(
    text: str, target: str, context: str, others: Sequence[str], likeness: Likeness
) -> float:
    """A reply's worth: above chance, less what guards of echoing, repetition and length take.

    They are taken off, not multiplied: chance is 0 here, and an echo must fall below it. The
    reference has 1 and the empty text -1, below any reply that says something of its own.
    """
    if not text:
        return -1.0
    # Honest replies differ from the reference in length, and by chance in likeness to one of the
    # turns. Guards that took these off made "I don't know" better than a human's other reply.
    said = [turn["content"] for turn in turns(context)]
    guards = copying_guard(text, target, said, margin=0.2)
    guards *= repetition_guard(text, target) * length_guard(text, target, slack=2.0, floor=150)
    return above_chance(text, target, others, likeness) - (1 - guards)


def reply_reward(
    prompts, completions: Completions, reference, source, distractors=None, **_
) -> list[float]:
    """Dialogue: chrF to the human's reply above chance, with guards.

    Many replies are good, and chrF to one of them mostly says how common a text's letters are: a
    bland reply that suits every dialogue would win. So the mean chrF to replies from other
    dialogues (column `distractors`, of `load`) is taken off.
    """
    others = [()] * len(completions) if distractors is None else distractors
    return [
        guarded_reply(text_of(completion), target, context, rest, chrf)
        for completion, target, context, rest in zip(
            completions, reference, source, others, strict=True
        )
    ]
