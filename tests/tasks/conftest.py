"""The hub's datasets as folders: invented rows in the columns and types that their cards state."""

import json
import os
from pathlib import Path

import datasets
import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")

FIXTURES = Path(__file__).parent / "fixtures"
TEXT, INT, FLOAT = datasets.Value("string"), datasets.Value("int32"), datasets.Value("float32")
FEATURES = {
    "hh-rlhf": {"chosen": TEXT, "rejected": TEXT},
    "summarize_from_feedback/comparisons": {
        "info": dict.fromkeys(("id", "post", "title", "subreddit", "site", "article"), TEXT),
        "summaries": [{"text": TEXT, "policy": TEXT, "note": TEXT}],
        "choice": INT,
        "worker": TEXT,
        "batch": TEXT,
        "split": TEXT,
        "extra": {"confidence": INT},
    },
    "wmt20_mlqe_task1/en-de": {
        "segid": INT,
        "translation": datasets.Translation(languages=("en", "de")),
        "scores": datasets.List(FLOAT),
        "mean": FLOAT,
        "z_scores": datasets.List(FLOAT),
        "z_mean": FLOAT,
        "model_score": FLOAT,
        "doc_id": TEXT,
        "nmt_output": TEXT,
        "word_probas": datasets.List(FLOAT),
    },
}


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """`datasets.load_dataset` reads the hub's names from folders, and the calls are returned.

    hh-rlhf and MLQE are data files with their splits named; summarize_from_feedback still is a
    loading script, so only its parquet export can be read.
    """
    root, calls, real = tmp_path / "hub", [], datasets.load_dataset
    for name, features in FEATURES.items():
        for file in (FIXTURES / name).glob("*.jsonl"):
            target = root / name / f"{file.stem}.parquet"
            target.parent.mkdir(parents=True, exist_ok=True)
            rows = map(json.loads, file.read_text(encoding="utf-8").splitlines())
            made = datasets.Dataset.from_list(list(rows), features=datasets.Features(features))
            made.to_parquet(target)
    card = (FIXTURES / "wmt20_mlqe_task1/README.md").read_text()
    (root / "wmt20_mlqe_task1/README.md").write_text(card.replace(".jsonl", ".parquet"))
    script = tmp_path / "scripts/summarize_from_feedback"
    script.mkdir(parents=True)
    (script / "summarize_from_feedback.py").write_text("raise SystemExit('code from a hub ran')\n")

    def load_dataset(path, name=None, *, revision=None, **options):
        calls.append((path, name, revision))
        owner, _, dataset = path.partition("/")
        folder = root / dataset
        if dataset == "summarize_from_feedback" and revision is None:
            folder = script
        assert owner in ("Anthropic", "openai", "wmt")
        return real(str(folder), name, cache_dir=str(tmp_path / "cache"), **options)

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    return calls
