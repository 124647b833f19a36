"""The paper's datasets: their schemas mapped to prompts, references, pairs and scores."""

import datasets
import pytest

from zopro.tasks import get_task
from zopro.tasks.splits import SPLITS


def test_dialogue_prompts_end_where_the_last_answer_begins(hub):
    rows = get_task("dialogue").load("train", "hub")
    assert rows.column_names == ["prompt", "source", "reference", "key", "distractors"]
    long = next(r for r in rows if "\n\nAssistant: Is your" in r["source"])
    assert long["prompt"] == long["source"] + "\n\nAssistant:"
    assert long["source"].startswith("\n\nHuman: How do I store a ")
    assert long["source"].endswith("\n\nHuman: Yes, it is soft.\nWhat now?")
    assert long["reference"].startswith("Keep the ")
    assert len(long["distractors"]) == 4 and long["reference"] not in long["distractors"]
    assert not any("a berry" in r["key"] for r in rows)  # that row has no answer
    assert hub == [("Anthropic/hh-rlhf", None, None)]


def test_dialogue_as_messages(hub):
    rows = get_task("dialogue").load("train", "hub", conversational=True)
    prompt = next(p for p in rows["prompt"] if len(p) == 3)
    assert [turn["role"] for turn in prompt] == ["user", "assistant", "user"]
    assert prompt[2]["content"] == "Yes, it is soft.\nWhat now?"


def test_dialogue_pairs_share_their_prompt(hub):
    task = get_task("dialogue")
    pairs = task.preference_pairs("train", "hub")
    assert pairs.column_names == ["prompt", "chosen", "rejected", "kind"]
    assert set(pairs["kind"]) == {"human"}
    assert all(text.startswith(" Keep the ") for text in pairs["chosen"])
    assert all(text.startswith(" I do not like ") for text in pairs["rejected"])
    assert not any("nut" in prompt for prompt in pairs["prompt"])  # two dialogues, no comparison
    chat = task.preference_pairs("test", "hub", conversational=True)[0]
    assert chat["rejected"] == [{"role": "assistant", "content": "Bake."}]


def test_dialogue_validation_is_taken_out_of_train(hub):
    task = get_task("dialogue")
    sources = {split: set(task.load(split, "hub")["source"]) for split in SPLITS}
    assert len(sources["train"]) + len(sources["validation"]) == 25 and len(sources["test"]) == 2
    assert sources["validation"] and not sources["train"] & sources["validation"]


def test_summaries_are_one_row_a_post_with_the_humans_reference(hub):
    rows = get_task("summarisation").load("train", "hub")
    assert len(rows) == len(set(rows["key"])) == 8
    first = next(r for r in rows if "Post 0." in r["source"])
    assert first["prompt"].startswith(
        "SUBREDDIT: r/gardens\nTITLE: My apple is too tall\nI planted"
    )
    assert first["prompt"].endswith("\n\nTL;DR:")
    assert first["reference"] == "A tall tree, and fees."  # policy "ref", though not chosen
    assert {r["reference"] for r in rows if "Post 2." in r["source"]} == {
        "My plum outgrew the house."
    }


def test_a_loading_script_is_read_from_the_parquet_export(hub):
    get_task("summarisation").load("train", "hub")
    name = "openai/summarize_from_feedback"
    assert hub == [(name, "comparisons", None), (name, None, "refs/convert/parquet")]


def test_summary_pairs_follow_the_choice(hub):
    pairs = get_task("summarisation").preference_pairs("train", "hub")
    assert pairs[0]["chosen"] == " My apple outgrew the house."
    assert pairs[1]["chosen"] == " Neighbours and a pear."
    assert pairs[1]["rejected"] == " My pear outgrew the house."


def test_news_articles_and_halved_validation(hub):
    task = get_task("summarisation")
    found = {split: task.load(split, "hub") for split in ("validation", "test")}
    keys = {split: set(rows["key"]) for split, rows in found.items()}
    assert len(keys["validation"]) + len(keys["test"]) == 16
    assert keys["validation"] and keys["test"] and not keys["validation"] & keys["test"]
    news = [s for rows in found.values() for s in rows["source"] if "SUBREDDIT" not in s]
    assert len(news) == 4 and all(s.startswith("TITLE: ") for s in news)


def test_translation_scores_and_references(hub):
    task = get_task("translation")
    scored = task.scored("train", "hub")
    assert scored.column_names == ["prompt", "completion", "score", "kind"]
    assert scored["score"] == pytest.approx([0.8, 0.4, -1.3])  # -10,000 means "not rated"
    assert scored[0]["prompt"] == "English: The mill grinds grain by the river.\nGerman:"
    assert scored[0]["completion"] == " Die Mühle mahlt Korn am Fluss."
    assert set(scored["kind"]) == {"human"}
    rows = task.load("train", "hub")
    assert rows["reference"] == [scored[i]["completion"].strip() for i in (0, 1)]
    assert [len(task.load(split, "hub")) for split in SPLITS] == [2, 1, 1]


def test_supervised_has_prompt_and_completion(hub):
    rows = get_task("translation").supervised("validation", "hub")
    assert rows[0] == {
        "prompt": "English: Snow lay on the roof.\nGerman:",
        "completion": " Schnee lag auf dem Dach.",
    }


def test_a_missing_column_is_named(monkeypatch):
    other = datasets.Dataset.from_dict({"chosen": ["a"], "worse": ["b"]})
    monkeypatch.setattr(datasets, "load_dataset", lambda *a, **k: other)
    with pytest.raises(ValueError, match=r"hh-rlhf has no column 'rejected'; its columns are chos"):
        get_task("dialogue").load("train", "hub")


def test_an_unreachable_hub_is_one_sentence(monkeypatch):
    def fail(*args, **options):
        raise ConnectionError("Couldn't reach it on the Hub.\nand a second line")

    monkeypatch.setattr(datasets, "load_dataset", fail)
    with pytest.raises(RuntimeError, match=r"'offline' for data that needs no hub \(Couldn't") as e:
        get_task("translation").load("train", "hub")
    assert "second line" not in str(e.value)
