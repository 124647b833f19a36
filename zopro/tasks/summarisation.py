"""Summarisation in a sentence.

Hub: openai/summarize_from_feedback, comparisons (hub.py). Offline: "debian", package descriptions
and their synopses (descriptions.py), and "aclsum", papers and expert summaries (aclsum.py).
"""

from __future__ import annotations

from . import aclsum, descriptions, hub
from .overlap import overlap_reward
from .protocol import Origin, Task
from .scoring import chrf, repeated, rouge_l

TASK = Task(
    name="summarisation",
    about="a text into one sentence",
    plain="{source}\n\nTL;DR:",
    chat="Summarise this text in one short sentence. Answer with the summary alone.\n\n{source}",
    origins={
        "hub": Origin(
            "openai/summarize_from_feedback: Reddit posts, news, human comparisons of summaries",
            lambda split, cache: hub.summary_rows(split),
            pairs=lambda split, cache: hub.summary_pairs(split),
        ),
        "debian": Origin(
            "Debian's package descriptions and synopses; free software, no single licence",
            descriptions.rows,
            build=descriptions.build,
        ),
        "aclsum": Origin(
            "ACLSum: papers and expert summaries of three aspects; MIT",
            aclsum.rows,
            build=aclsum.build,
        ),
    },
    rewards={"overlap": lambda: overlap_reward},
    measures={
        "rouge-l": lambda text, row: rouge_l(text, row["reference"]),
        "chrf": lambda text, row: 100 * chrf(text, row["reference"]),
        "repeated": lambda text, row: repeated(text),
        "length ratio": lambda text, row: len(text) / max(len(row["reference"]), 1),
    },
    max_completion_length=48,
)
