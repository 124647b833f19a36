"""Names, files, splits and everything that is refused: one sentence that says what would do."""

import json
from importlib.metadata import EntryPoint

import datasets
import pytest

import zopro.tasks
from zopro.tasks import Origin, Task, get_task, task_names
from zopro.tasks.splits import SPLITS, hash_split, write_splits

ROWS = [{"source": f"house number {i}", "reference": f"Haus Nummer {i}"} for i in range(60)]


def jsonl(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_a_file_is_split_by_hash_and_nothing_is_lost(tmp_path):
    path = jsonl(tmp_path / "rows.jsonl", ROWS)
    found = {split: get_task("translation").load(split, path) for split in SPLITS}
    sources = [set(rows["source"]) for rows in found.values()]
    assert sum(map(len, sources)) == len(set.union(*sources)) == 60
    assert len(sources[0]) > 35 and sources[1] and sources[2]
    row = found["train"][0]
    assert row["prompt"] == f"English: {row['source']}\nGerman:"
    assert row["reference"] == row["source"].replace("house number", "Haus Nummer")


def test_rows_of_one_key_stay_together(tmp_path):
    rows = [{**row, "key": f"k{i // 6}"} for i, row in enumerate(ROWS)]
    path = jsonl(tmp_path / "rows.jsonl", rows)
    keys = []
    for split in SPLITS:
        mine = {f"k{i}" for i in range(10) if hash_split(f"k{i}") == split}
        if mine:
            keys.append(set(get_task("translation").load(split, path)["key"]))
            assert keys[-1] == mine
    assert len(keys) > 1


def test_parquet_and_a_folder_of_splits(tmp_path):
    datasets.Dataset.from_list(ROWS[:3]).to_parquet(tmp_path / "train.parquet")
    jsonl(tmp_path / "validation.jsonl", ROWS[3:5])
    task = get_task("translation")
    assert task.load("train", tmp_path)["reference"] == [r["reference"] for r in ROWS[:3]]
    assert len(task.load("validation", str(tmp_path))) == 2
    with pytest.raises(FileNotFoundError, match=r"there is no file .*test\.jsonl"):
        task.load("test", tmp_path)


def test_files_with_pairs_and_scores(tmp_path):
    pair = {"source": "a kettle", "chosen": "ein Kessel", "rejected": "Kessel Kessel"}
    jsonl(tmp_path / "train.jsonl", [pair])
    found = get_task("translation").preference_pairs("train", tmp_path)[0]
    assert found["chosen"] == " ein Kessel" and found["kind"] == "human"
    jsonl(tmp_path / "train.jsonl", [{"source": "a", "completion": "b", "score": 2}])
    assert get_task("translation").scored("train", tmp_path)[0]["score"] == 2.0


def test_pairs_and_scores_are_made_where_there_are_none(tmp_path):
    path = jsonl(tmp_path / "rows.jsonl", ROWS)
    task = get_task("translation")
    pairs = task.preference_pairs("train", path)
    assert {"copy", "other", "doubled", "shuffled"} <= set(pairs["kind"])
    assert "human" not in pairs["kind"] and "reference" not in pairs["kind"]
    assert all(a != b for a, b in zip(pairs["chosen"], pairs["rejected"]))
    scored = task.scored("train", path)
    best = [s for s, kind in zip(scored["score"], scored["kind"]) if kind == "reference"]
    assert best and best == [1.0] * len(best) and max(scored["score"]) == 1.0


def test_a_limit_is_spread_over_the_split(tmp_path):
    path = jsonl(tmp_path / "rows.jsonl", ROWS)
    task = get_task("translation")
    whole, part = task.load("train", path)["source"], task.load("train", path, limit=10)["source"]
    assert len(part) == 10 and part != whole[:10]
    assert part == [s for s in whole if s in part] == task.load("train", path, limit=10)["source"]


def test_dialogue_files_take_messages_or_transcripts(tmp_path):
    said = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
    rows = [
        {"source": [*said, {"role": "user", "content": "Tea?"}], "reference": "Yes please"},
        {"source": "Is it late?", "reference": "Not yet"},
    ]
    datasets.Dataset.from_list(rows[:1]).to_parquet(tmp_path / "train.parquet")
    jsonl(tmp_path / "test.jsonl", rows[1:])
    task = get_task("dialogue")
    plain = task.load("train", tmp_path)[0]
    assert plain["prompt"] == "\n\nHuman: Hi\n\nAssistant: Hello\n\nHuman: Tea?\n\nAssistant:"
    assert plain["distractors"] == [""] * 4 or plain["distractors"] == []  # no other row
    chat = task.load("train", tmp_path, conversational=True)[0]["prompt"]
    assert chat == rows[0]["source"]
    assert task.load("test", tmp_path)[0]["source"] == "\n\nHuman: Is it late?"
    jsonl(tmp_path / "validation.jsonl", [{"source": said, "reference": "x", "key": "k"}])
    with pytest.raises(ValueError, match="source of row 'k' ends with no turn of the user"):
        task.load("validation", tmp_path)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"split": "dev"}, "split is 'dev'; choose one of train, validation, test"),
        ({"source": "web"}, "source is 'web'; for task 'translation' choose one of offline, hub,"),
        ({"limit": 0}, "limit is 0; give at least 1"),
    ],
)
@pytest.mark.parametrize("method", ["load", "supervised", "preference_pairs", "scored"])
def test_bad_arguments_are_named(method, options, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        getattr(get_task("translation"), method)(cache_dir=tmp_path, **options)


@pytest.mark.parametrize(
    "content, message",
    [
        ('{"source": "a"}\n', "row 1 of .* has no column 'reference'; it needs source, reference"),
        ('{"source": "a", "reference": null}\n', "has no column 'reference'"),
        ('{"source": "a", "reference": "b"}\nnonsense\n', "line 2 of .* is no JSON object"),
        ("[1]\n", "line 1 of .* is no JSON object"),
        ("", "has no rows for split 'train'"),
        ("\n\n", "has no rows for split 'train'"),
    ],
)
def test_bad_files_are_named(content, message, tmp_path):
    (tmp_path / "train.jsonl").write_text(content)
    with pytest.raises(ValueError, match=message):
        get_task("translation").load("train", tmp_path)


def test_files_that_are_not_there_or_of_another_kind(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"source is 'no\.jsonl', and there is no file"):
        get_task("translation").load("train", "no.jsonl")
    (tmp_path / "rows.csv").write_text("a,b\n")
    with pytest.raises(ValueError, match=r"give a file that ends in \.jsonl or \.parquet"):
        get_task("translation").load("train", tmp_path / "rows.csv")


def test_tasks_by_name():
    assert task_names()[:3] == ["summarisation", "translation", "dialogue"]
    for name in task_names()[:3]:
        task = get_task(name)
        assert task.name == name and "hub" in task.origins
        assert task.about and all(origin.about for origin in task.origins.values())
    with pytest.raises(ValueError, match=r"task is 'chess'; choose one of summarisation, transl"):
        get_task("chess")
    with pytest.raises(ValueError, match="reward is 'bleu'; for 'translation' choose one of chrf"):
        get_task("translation").reward_funcs("bleu")


def plugin():
    """All that a plug-in has to write; its entry point names this function."""
    rows = [{"source": f"{i} cats", "reference": f"{i} chats", "key": str(i)} for i in range(9)]

    def same(prompts, completions, reference, **_):
        return [float(a == b) for a, b in zip(completions, reference)]

    return Task(
        name="french",
        about="counted cats into French",
        plain="{source} =",
        chat="In French: {source}",
        origins={"cats": Origin("nine rows", lambda split, cache: rows)},
        rewards={"same": lambda: same},
        measures={},
        max_completion_length=8,
    )


def test_plug_ins_come_from_entry_points(monkeypatch):
    module = __name__
    found = [
        EntryPoint("french", f"{module}:plugin", zopro.tasks.GROUP),
        EntryPoint("number", "math:pi", zopro.tasks.GROUP),
        EntryPoint("gone", "no_such_module_here:TASK", zopro.tasks.GROUP),
        EntryPoint("translation", "math:pi", zopro.tasks.GROUP),  # cannot take a built-in's name
    ]
    monkeypatch.setattr(zopro.tasks, "entry_points", lambda group: found)
    monkeypatch.setattr(EntryPoint, "load", lambda self: _load(self))
    assert task_names() == [*zopro.tasks._BUILT_IN, "french", "gone", "number"]
    task, rows = get_task("french"), get_task("french").load("validation", limit=4)
    assert rows.column_names == ["prompt", "source", "reference", "key"] and len(rows) == 4
    assert task.metrics(rows["reference"], rows)["reward"].mean == 1
    assert task.metrics(task.baselines(rows)["copy"], rows)["reward"].mean == 0
    with pytest.raises(ValueError, match="choose one of offline, cats, or the path"):
        task.load("train", "hub")
    assert get_task("translation").name == "translation"
    with pytest.raises(TypeError, match=r"task 'number' \(math:pi\) is no task: it lacks 'name'"):
        get_task("number")
    with pytest.raises(
        ImportError, match=r"task 'gone' \(no_such_module_here:TASK\) does not load"
    ):
        get_task("gone")


def _load(point):
    # Under pytest's importlib mode this test module cannot be imported by its name.
    if point.attr == "plugin":
        return plugin
    module = __import__(point.module)
    return getattr(module, point.attr)


def test_a_cache_appears_whole_or_not_at_all(tmp_path):
    with pytest.raises(RuntimeError, match="no split may be empty"):
        write_splits(tmp_path / "made", {"train": ROWS, "validation": [], "test": ROWS})
    assert list(tmp_path.iterdir()) == []
    split = {"train": ROWS, "validation": ROWS[:1], "test": ROWS[:2]}
    assert write_splits(tmp_path / "made", split) == {"train": 60, "validation": 1, "test": 2}
    assert [p.name for p in tmp_path.iterdir()] == ["made"]
