"""English-German sentence pairs, built on the spot from Debian's package index.

Debian describes every package in English and, for some thousands, in a human translation into
German. ``apt-get`` fetches both lists (8 MB) through the machine's own package sources into a
folder of this module's; they are joined on the MD5 sum of the English description, cleaned, and
split by a hash of the package's name. No root rights are needed; apt's own state is not touched.

The descriptions are part of the packages' packaging: free software, of many authors, under no
single licence. They are therefore built here and not shipped.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datasets import Dataset

SPLITS = ("train", "validation", "test")
PARTS = ("synopsis", "paragraph")
_COLUMNS = {"prompt": "source", "reference": "target", "source": "source", "package": "package"}
TEMPLATE = "English: {source}\nGerman:"

_VERSION = 1  # raise it when a filter or the split changes: caches are then built anew

# Read after the machine's own configuration (the sources stay as they are). The hooks are cleared
# because some systems delete the system's own package cache in them, the index targets because
# the package lists themselves are several times the size of what is wanted here.
_APT_CONFIG = """
#clear APT::Update::Pre-Invoke;
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
#clear Acquire::Languages;
#clear Acquire::IndexTargets;
Acquire::Languages {{ "en"; "de"; }};
Acquire::IndexTargets::deb::Translations {{
  MetaKey "$(COMPONENT)/i18n/Translation-$(LANGUAGE)";
  ShortDescription "Translation-$(LANGUAGE)";
  Description "$(RELEASE)/$(COMPONENT) Translation-$(LANGUAGE)";
}};
Acquire::GzipIndexes "false";
Acquire::Retries "2";
Acquire::http::Timeout "30";
APT::Sandbox::User "";
Dir::State "{folder}/state";
Dir::State::lists "{folder}/state/lists";
Dir::State::status "{folder}/status";
Dir::Cache "{folder}/cache";
Dir::Log "{folder}/log";
"""

_SUFFIXES = re.compile(
    r"([-.]?(doc|docs|dev|dbg|dbgsym|data|common|bin|utils|tools|examples|plugins?|server|client"
    r"|gtk\d?|qt\d?|java|perl|all|core|base|extra|runtime|static|cil|ocaml|tests?|full|nox|x11)"
    r"|[-.]?\d[\d.]*[a-z]?)$"
)


def family(package: str) -> str:
    """Stem shared by sibling packages (``libfoo2-dev``, ``foo-doc``, ``foo``: ``foo``).

    Siblings describe themselves in nearly the same words, so the split keeps them together.
    """
    stem = re.sub(r"^lib(?=..)", "", package)
    while (shorter := _SUFFIXES.sub("", stem)) != stem and len(shorter) > 1:
        stem = shorter
    return stem


def split_of(package: str) -> str:
    """The split of a package, by SHA-256 of its family: 80 % train, 10 % validation, 10 % test."""
    bucket = int.from_bytes(hashlib.sha256(family(package).encode()).digest()[:4], "big") % 10
    return "validation" if bucket == 8 else "test" if bucket == 9 else "train"


def parse_translations(path: str | os.PathLike, language: str) -> dict[str, tuple[str, list[str]]]:
    """Read one ``Translation-xx`` file (UTF-8).

    Returns: {MD5 of the English description: (package, [synopsis, paragraph, ...])}, each
    paragraph on one line; indented (verbatim) lines end a paragraph and are left out.
    """
    found = {}
    for entry in Path(path).read_text(encoding="utf-8", errors="replace").split("\n\n"):
        fields, body = {}, []
        for line in entry.splitlines():
            if line.startswith(" "):
                body.append(line[1:])
            elif ": " in line:
                key, value = line.split(": ", 1)
                fields[key] = value
        text = fields.get(f"Description-{language}")
        if text and {"Package", "Description-md5"} <= fields.keys():
            paragraphs = [[]]
            for line in body:
                if line == "." or line.startswith(" "):
                    paragraphs.append([])
                else:
                    paragraphs[-1].append(line.strip())
            texts = [text.strip()] + [" ".join(p) for p in paragraphs if p]
            found[fields["Description-md5"]] = (fields["Package"], texts)
    return found


def is_pair(source: str, target: str) -> bool:
    """Whether two texts look like a sentence and its translation, not a name or a leftover."""
    words, translated = source.split(), target.split()
    letters = sum(c.isalpha() or c.isspace() for c in source + target)
    return (
        3 <= len(words) <= 60 >= len(translated) >= 2
        and 0.4 <= len(target) / len(source) <= 2.5
        and letters >= 0.85 * len(source + target)
        and source.casefold() != target.casefold()
        and not re.search(r"<trans>|https?:|www\.|@", source + target)
    )


def align(english: dict, german: dict) -> Iterator[dict]:
    """Join two parsed indexes on the MD5 sum; yields rows ``package, part, source, target``.

    Paragraphs are paired by position where both sides have the same number of them. A source
    occurs once: the first package in alphabetical order keeps it.
    """
    seen = set()
    for package, md5 in sorted((german[k][0], k) for k in german.keys() & english.keys()):
        source, target = english[md5][1], german[md5][1]
        pairs = [("synopsis", source[0], target[0])]
        if len(source) == len(target):
            pairs += [("paragraph", s, t) for s, t in zip(source[1:], target[1:], strict=True)]
        for part, s, t in pairs:
            if is_pair(s, t) and s.casefold() not in seen:
                seen.add(s.casefold())
                yield {"package": package, "part": part, "source": s, "target": t}


def fetch_index(folder: str | os.PathLike) -> tuple[list[Path], list[Path]]:
    """Have ``apt-get update`` put the English and German lists under ``folder`` (about 17 MB).

    Returns: (English files, German files) of the free components. Raises RuntimeError, in one
    sentence, when apt-get is missing, fails, or knows no source with German descriptions.
    """
    if shutil.which("apt-get") is None:
        raise RuntimeError(
            "apt-get is not on this machine, and the sentence pairs come from Debian's package "
            "index: run this on Debian or Ubuntu (or in a container of one)."
        )
    folder = Path(folder).resolve()
    for name in ("state/lists/partial", "cache/archives/partial", "log"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    (folder / "status").touch()
    config = folder / "apt.conf"
    config.write_text(_APT_CONFIG.format(folder=folder))
    command, env = ["apt-get", "-q", "-c", str(config), "update"], {**os.environ, "LC_ALL": "C"}
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=env)
    except subprocess.TimeoutExpired:
        raise RuntimeError(
            "apt-get did not fetch the package index within 300 s: check this machine's network."
        ) from None
    # A source that fails leaves a warning and status 0 as a rule: judge by what has come.
    lists = sorted((folder / "state/lists").glob("*_i18n_Translation-*"))
    free = [p for p in lists if re.search(r"_(main|universe)_i18n_", p.name)]
    english = [p for p in free if p.name.endswith("-en")]
    german = [p for p in free if p.name.endswith("-de")]
    if not english or not german:
        told = [x for x in (done.stdout + done.stderr).splitlines() if x[:2] in ("E:", "W:")]
        reason = f" (apt said: {told[-1][3:].strip().rstrip('.')})." if told else "."
        raise RuntimeError(
            "apt-get fetched no German package descriptions: check that this machine's package "
            "sources name Debian's or Ubuntu's archive and can be reached" + reason
        )
    return english, german


def build(folder: str | os.PathLike) -> dict[str, int]:
    """Build the cache: one JSON Lines file a split under ``folder``. Returns rows by split.

    The folder appears whole or not at all (it is filled beside and renamed).
    """
    folder = Path(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    rows = {split: [] for split in SPLITS}
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".building-") as scratch:
        english_files, german_files = fetch_index(Path(scratch) / "apt")
        english = {k: v for f in english_files for k, v in parse_translations(f, "en").items()}
        german = {k: v for f in german_files for k, v in parse_translations(f, "de").items()}
        for row in align(english, german):
            rows[split_of(row["package"])].append(row)
        counts = {split: len(content) for split, content in rows.items()}
        if not all(rows.values()):
            raise RuntimeError(
                f"the package index yields {counts} pairs, too few "
                "for three splits: use the sources of a full Debian or Ubuntu release."
            )
        ready = Path(scratch) / "ready"
        ready.mkdir()
        for split, content in rows.items():
            lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in content)
            (ready / f"{split}.jsonl").write_text("".join(lines), encoding="utf-8")
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(ready, folder)
    return counts


def translation_pairs(
    split: str,
    cache_dir: str | os.PathLike | None = None,
    *,
    part: str = "synopsis",
    template: str = TEMPLATE,
    rebuild: bool = False,
) -> Dataset:
    """English-German pairs of one split, in TRL's plain prompt format.

    Args: split: "train", "validation" or "test". cache_dir: where the pairs are kept (default
    ``$ZOPRO_CACHE``, else ``~/.cache/zopro``); built there on first use, in seconds. part:
    "synopsis" (3 to 15 words or so) or "paragraph". template: the prompt around ``{source}``.
    rebuild: fetch the index anew.

    Returns: a Dataset with string columns ``prompt``, ``reference`` (the German text), ``source``
    (the English text) and ``package``. Raises ValueError for an unknown split, part or template,
    RuntimeError when the index cannot be had.
    """
    from datasets import Dataset

    if split not in SPLITS:
        raise ValueError(f"split is {split!r}; choose one of {', '.join(SPLITS)}.")
    if part not in PARTS:
        raise ValueError(f"part is {part!r}; choose one of {', '.join(PARTS)}.")
    if "{source}" not in template:
        raise ValueError(f"template is {template!r}; it must contain {{source}}.")
    root = cache_dir or os.environ.get("ZOPRO_CACHE") or "~/.cache/zopro"
    folder = Path(root).expanduser() / f"debian-en-de-{_VERSION}"
    path = folder / f"{split}.jsonl"
    if rebuild or not path.is_file():
        build(folder)
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    chosen = [row for row in rows if row["part"] == part]
    columns = {new: [r[old] for r in chosen] for new, old in _COLUMNS.items()}
    columns["prompt"] = [template.format(source=source) for source in columns["prompt"]]
    return Dataset.from_dict(columns)
