"""Prompts: transcripts and messages, and cutting the source to a budget of tokens."""

import json
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from zopro.tasks import get_task
from zopro.tasks.prompts import count_tokens, is_chat, transcript, truncate, turns

START = Path(__file__).parents[2] / "examples/translation/start"
TEMPLATE = (
    "{% for m in messages %}<{{ m['role'] }}> {{ m['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(START)


@pytest.fixture
def chat(tokenizer):
    tokenizer.chat_template = TEMPLATE
    yield tokenizer
    tokenizer.chat_template = None


def test_transcripts_and_messages_say_the_same():
    text = "\n\nHuman: Hi\n\nAssistant: Hello.\n\nA second paragraph: yes.\n\nHuman: Bye"
    messages = turns(text)
    assert [m["role"] for m in messages] == ["user", "assistant", "user"]
    assert messages[1]["content"] == "Hello.\n\nA second paragraph: yes."
    assert transcript(messages) == text and turns(text + "\n\nAssistant:") == messages
    assert turns("no mark") == [{"role": "user", "content": "no mark"}]
    assert turns("") == [] and turns("\n\nHuman: a\n\nHuman: b")[0]["content"] == "a\nb"


def test_is_chat(tokenizer):
    assert not is_chat(tokenizer)
    tokenizer.chat_template = TEMPLATE
    assert is_chat(tokenizer)
    tokenizer.chat_template = None


@pytest.mark.parametrize("keep", ["start", "end"])
@pytest.mark.parametrize("budget", [0, 1, 3, 7, 1000])
def test_truncate_keeps_a_part_of_the_very_text(tokenizer, keep, budget):
    text = "Ein Werkzeug zählt äußerst viele Äpfel, und es schreibt sie auf."
    cut = truncate(text, tokenizer, budget, keep)
    assert text.startswith(cut) if keep == "start" else text.endswith(cut)
    assert len(tokenizer(cut, add_special_tokens=False)["input_ids"]) <= budget
    assert (cut == text) == (budget == 1000) and (cut == "") == (budget == 0)


def test_truncate_minds_that_a_cut_text_splits_anew():
    class Pairs:
        """Two letters a token in texts that begin with a, one in all others."""

        is_fast = True

        def __call__(self, text, **options):
            step = 2 if text.startswith("a") else 1
            spans = [(i, min(i + step, len(text))) for i in range(0, len(text), step)]
            return {"input_ids": list(range(len(spans))), "offset_mapping": spans}

    assert truncate("abcdefgh", Pairs(), 3, "end") == "gh"  # "cdefgh" has six tokens of its own
    assert truncate("abcdefgh", Pairs(), 3) == "abcdef"


def test_truncate_refuses():
    with pytest.raises(ValueError, match="max_tokens is -1"):
        truncate("a", None, -1)
    with pytest.raises(ValueError, match="keep is 'middle'"):
        truncate("a", None, 1, "middle")


def rows_of(name, tmp_path, source, conversational):
    rows = [{"source": source, "reference": "r"}, {"source": "short", "reference": "q"}]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return get_task(name).load("train", tmp_path, conversational=conversational)


@pytest.mark.parametrize("conversational", [False, True])
@pytest.mark.parametrize("name", ["translation", "summarisation", "dialogue"])
def test_fit_cuts_the_source_and_leaves_the_instruction(
    name, conversational, tmp_path, tokenizer, chat
):
    task, source = get_task(name), "these words are many and they do not end " * 30
    rows = rows_of(name, tmp_path, source, conversational)
    fitted = task.fit(rows, tokenizer, 64)
    lengths = [count_tokens(prompt, tokenizer) for prompt in fitted["prompt"]]
    assert 40 < lengths[0] <= 64
    assert fitted[1] == rows[1] and fitted.column_names == rows.column_names
    assert fitted["prompt"][0] == task.prompt(fitted["source"][0], conversational)
    assert len(fitted["source"][0]) < len(source)


def test_supervised_prompts_are_cut_as_those_of_rollouts(tmp_path, tokenizer):
    task, source = get_task("translation"), "these words are many and they do not end " * 30
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"source": source, "reference": "viele Worte"}) + "\n")
    whole, cut = (task.supervised("train", str(path), fit=f) for f in (None, (tokenizer, 64)))
    assert count_tokens(whole["prompt"][0], tokenizer) > 64
    assert 40 < count_tokens(cut["prompt"][0], tokenizer) <= 64
    assert cut["completion"] == whole["completion"]


def test_fit_drops_a_dialogue_s_oldest_turns(tmp_path, tokenizer):
    said = [{"role": "user", "content": f"this is what was said as number {i}"} for i in range(9)]
    for i in range(1, 9, 2):
        said[i]["role"] = "assistant"
    task = get_task("dialogue")
    rows = rows_of("dialogue", tmp_path, transcript(said), False)
    fitted = task.fit(rows, tokenizer, 100)["source"][0]
    kept = turns(fitted)
    assert 1 < len(kept) < 9 and kept == said[-len(kept) :] and kept[0]["role"] == "user"


def test_fit_refuses_a_limit_below_the_instruction(tmp_path, tokenizer):
    rows = rows_of("summarisation", tmp_path, "some words " * 50, False)
    with pytest.raises(ValueError, match="max_tokens is 3, and task 'summarisation'"):
        get_task("summarisation").fit(rows, tokenizer, 3)
