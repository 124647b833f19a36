"""Translation, English to German.

Hub: wmt/wmt20_mlqe_task1, en-de (hub.py), whose raters' z_mean a reward model can learn.
Offline: Debian's package descriptions (debian.py), "debian" the one-line synopses and
"debian-paragraphs" their paragraphs.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

from . import debian, hub
from .overlap import chrf_reward
from .protocol import Origin, Task
from .scoring import chrf, repeated
from .splits import SPLITS, Row, alone


def _debian(split: str, cache: Path, part: str) -> Iterator[Row]:
    with alone(cache / "debian-en-de"):
        pairs = debian.translation_pairs(split, cache, part=part, template="{source}")
    for row in pairs:
        yield {"source": row["source"], "reference": row["reference"], "key": row["package"]}


def _build(cache: Path, part: str) -> dict[str, int]:
    debian.translation_pairs("train", cache, rebuild=True)
    return {split: len(list(_debian(split, cache, part))) for split in SPLITS}


TASK = Task(
    name="translation",
    about="English sentences into German",
    plain=debian.TEMPLATE,
    chat="Translate into German. Answer with the translation alone.\n\n{source}",
    origins={
        "hub": Origin(
            "wmt/wmt20_mlqe_task1 en-de: Wikipedia sentences, machine translations, human scores",
            lambda split, cache: hub.translation_rows(split),
            scored=lambda split, cache: hub.translation_scored(split),
        ),
        "debian": Origin(
            "Debian's package synopses, by its translators; free software, no single licence",
            partial(_debian, part="synopsis"),
            build=partial(_build, part="synopsis"),
        ),
        "debian-paragraphs": Origin(
            "Debian's package descriptions by paragraphs; free software, no single licence",
            partial(_debian, part="paragraph"),
            build=partial(_build, part="paragraph"),
        ),
    },
    rewards={"chrf": lambda: chrf_reward},
    measures={
        "chrf": lambda text, row: 100 * chrf(text, row["reference"]),
        "chrf to input": lambda text, row: 100 * chrf(text, row["source"]),
        "repeated": lambda text, row: repeated(text),
        "length ratio": lambda text, row: len(text) / max(len(row["reference"]), 1),
    },
    max_completion_length=32,
)
