"""Rewards: what wins and what does not, TRL's signature, and that inputs stay as they are."""

import copy

import pytest

from zopro.tasks import bootstrap, get_task
from zopro.tasks.candidates import KINDS
from zopro.tasks.overlap import chrf_reward, overlap_reward, reply_reward
from zopro.tasks.scoring import (
    chrf,
    copying_guard,
    length_guard,
    repeated,
    repetition_guard,
    rouge_l,
    text_of,
)

TEXTS = {
    "translation": [
        ("a tool that counts ripe apples", "ein Werkzeug, das reife Äpfel zählt"),
        ("draws maps of old orchards", "zeichnet Karten alter Obstgärten"),
        ("press for fresh cider", "eine Presse für frischen Most"),
    ],
    "summarisation": [
        (f"This {a} watches {b} all night and writes what it has seen into a long list. " * 3, c)
        for a, b, c in [
            ("program", "hedgehogs in the garden", "nightly diary of visiting hedgehogs"),
            ("box", "kettles on the stove", "alarm for kettles that boil over"),
            ("kite", "clouds above the harbour", "weather notes taken from a kite"),
        ]
    ],
    "dialogue": [
        ("\n\nHuman: Where did you grow those big pumpkins?", "Behind the barn, in plenty of sun."),
        ("\n\nHuman: Hello.\n\nAssistant: Hi!\n\nHuman: Is it raining?", "Only a drizzle by now."),
        ("\n\nHuman: Do you play an instrument?", "I used to play the cello at school."),
    ],
}
TASKS = sorted(TEXTS)


def table(name):
    sources, references = zip(*TEXTS[name], strict=True)
    found = {"source": list(sources), "reference": list(references), "key": ["a", "b", "c"]}
    if name == "dialogue":
        found["distractors"] = [[references[i - 1], references[i - 2]] for i in range(3)]
    return found


def rewards(name, texts, rows=None):
    rows = rows or table(name)
    return get_task(name).reward_funcs()[0](rows["source"], texts, **rows)


@pytest.mark.parametrize("name", TASKS)
def test_the_reference_wins_every_comparison(name):
    rows = table(name)
    baselines = get_task(name).baselines(rows)
    assert tuple(baselines) == KINDS
    scores = {kind: rewards(name, texts, rows) for kind, texts in baselines.items()}
    assert scores["reference"] == pytest.approx([1, 1, 1])
    for kind in KINDS[1:]:
        assert all(value < 0.95 for value in scores[kind]), kind
    assert max(scores["empty"]) <= min(min(values) for values in scores.values())
    assert max(scores["copy"]) < 0.5 and max(scores["doubled"]) < 0.6


@pytest.mark.parametrize("name", TASKS)
def test_no_input_is_changed_and_trl_s_other_arguments_are_taken(name):
    rows = table(name)
    texts = list(rows["reference"])
    before = copy.deepcopy((rows, texts))
    function = get_task(name).reward_funcs()[0]
    more = {"completion_ids": [[1]] * 3, "trainer_state": None, "log_metric": print}
    scores = function(prompts=rows["source"], completions=texts, **rows, **more)
    assert (rows, texts) == before
    assert all(type(score) is float for score in scores)
    assert function.__name__.endswith("_reward")  # TRL names its metrics by it


@pytest.mark.parametrize("name", TASKS)
def test_conversational_completions_score_as_their_text(name):
    texts = table(name)["reference"][::-1]
    messages = [[{"role": "assistant", "content": text}] for text in texts]
    assert rewards(name, messages) == rewards(name, texts)


@pytest.mark.parametrize("function", [chrf_reward, overlap_reward, reply_reward])
def test_unequal_columns_are_refused(function):
    with pytest.raises(ValueError):
        function([""], ["a", "b"], reference=["a"], source=["s", "t"])


def test_text_of_every_form():
    parts = [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]
    assert text_of(" plain ") == "plain" and text_of(None) == "" and text_of([]) == ""
    assert text_of([{"role": "assistant", "content": parts}]) == "one\ntwo"
    assert text_of([{"role": "assistant", "content": None}, {"role": "tool", "content": "x"}]) == ""


def test_an_echo_falls_below_chance_and_an_own_reply_above_it():
    rows = table("dialogue")
    echo = [
        "Where did you grow those big pumpkins?",
        "Is it raining?",
        "Do you play an instrument?",
    ]
    near = ["In the sun behind the barn.", "By now only a little drizzle.", "I played cello once."]
    assert max(rewards("dialogue", echo, rows)) < -0.3
    assert min(rewards("dialogue", near, rows)) > 0.1
    bland = ["That is very nice to hear, I like it."] * 3
    assert max(rewards("dialogue", bland, rows)) < min(rewards("dialogue", near, rows))


def test_a_reply_that_suits_other_dialogues_better_is_below_chance():
    rows = table("dialogue")
    assert max(rewards("dialogue", [others[0] for others in rows["distractors"]], rows)) < -0.2


def test_dialogue_without_distractors_is_likeness_itself():
    rows = table("dialogue")
    del rows["distractors"]
    assert rewards("dialogue", rows["reference"], rows) == pytest.approx([1, 1, 1])


def test_guards_leave_the_reference_alone():
    text = "the cat and the dog and the cat and the dog"  # a reference that repeats itself
    assert repetition_guard(text, text) == length_guard(text, text) == 1
    assert copying_guard("Linux kernel", "Linux kernel", ["the Linux kernel"]) == 1
    assert repetition_guard("a b a b a b", "a b c") == pytest.approx(0.4)
    assert length_guard("x" * 30, "x" * 10) == pytest.approx(0.5)
    assert copying_guard("copied text", "other words", ["copied text"]) < 0.2


def test_similarities_at_their_ends():
    assert chrf("same words here", "same words here") == rouge_l("Same, words", "same words") == 1
    assert chrf("", "x") == chrf("x", "") == rouge_l("", "x") == repeated("") == 0
    assert rouge_l("a b c d", "a x c") == pytest.approx(4 / 7)
    assert repeated("no no no") == pytest.approx(2 / 3)
    assert rouge_l("größe ändern", "Größe ändern") == 1  # words in any script


def test_metrics_have_intervals():
    task, rows = get_task("translation"), table("translation")
    found = task.metrics(rows["reference"], rows)
    assert set(found) == {"reward", *task.measures}
    assert found["chrf"].mean == pytest.approx(100) and found["chrf"].n == 3
    with pytest.raises(ValueError, match="completions has 2 items and rows has 3"):
        task.metrics(["a", "b"], rows)


def test_bootstrap_covers_and_leaves_torch_s_generator_alone():
    import torch

    torch.manual_seed(0)
    state = torch.get_rng_state()
    covered = 0
    for _ in range(200):
        sample = torch.randn(50) + 3
        state = torch.get_rng_state()
        found = bootstrap(sample, resamples=300)
        assert torch.equal(torch.get_rng_state(), state)
        covered += found.low <= 3 <= found.high
    assert 180 <= covered <= 199
    assert bootstrap([2.0]) == (2.0, 2.0, 2.0, 1)
    with pytest.raises(ValueError, match="values is empty"):
        bootstrap([])
