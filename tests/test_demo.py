"""The demo in small: its pieces run on invented pairs, and its figures are what they claim."""

import importlib
import json
import queue
import sys
from concurrent.futures import Executor, Future
from pathlib import Path

import pytest
import torch

pytest.importorskip("trl", reason="the demo needs zopro[train]")

from datasets import Dataset

EXAMPLE = Path(__file__).parents[1] / "examples/translation"
WORDS = ("a library for", "tools to read", "a game about", "plugins for")
THINGS = ("apples", "pears", "plums", "quinces")
PAIRS = Dataset.from_list(
    [
        {
            "prompt": f"English: {w} {t}\nGerman:",
            "reference": f"Programm für {t}",
            "source": f"{w} {t}",
            "package": t,
        }
        for w in WORDS
        for t in THINGS
    ]
)


@pytest.fixture
def demo(monkeypatch):
    monkeypatch.syspath_prepend(str(EXAMPLE))
    for name in ("demo", "judge"):
        sys.modules.pop(name, None)
    module = importlib.import_module("demo")
    small = {"per_device_train_batch_size": 8, "steps_per_generation": 2, "num_iterations": 1}
    monkeypatch.setattr(module, "ROLLOUT", {**module.ROLLOUT, **small})
    monkeypatch.setattr(module, "STEPS", 2)
    monkeypatch.setattr(module, "SECOND_STEPS", 2)
    return module


@pytest.fixture
def judge(demo):
    return sys.modules["judge"]


def test_the_checkpoint_is_small_and_holds_no_pickle():
    files = [p for p in (EXAMPLE / "start").iterdir() if p.is_file()]
    assert {p.suffix for p in files} == {".json", ".safetensors"}
    assert sum(p.stat().st_size for p in files) < 8e6
    config = json.loads((EXAMPLE / "start/config.json").read_text())
    assert config["dtype"] == "bfloat16" and "_name_or_path" not in config


def test_reward_is_chrf_over_100(judge):
    texts = [" ein Programm", "etwas anderes"]
    same, other = judge.chrf_reward(None, texts, ["ein Programm", "ein Programm"])
    assert same == pytest.approx(1.0) and 0.0 <= other < 0.5


def test_interval_is_students(judge):
    mean, half = judge.interval([1.0, 2.0, 3.0])
    assert mean == 2.0 and half == pytest.approx(4.303 / 3**0.5)


def test_evaluate_repeats_with_its_seed_and_keeps_the_order(demo, judge):
    model, tokenizer = demo.load(), demo.AutoTokenizer.from_pretrained(demo.START)
    first = judge.evaluate(model, tokenizer, PAIRS, 2, seed=5)
    assert first.shape == (16,) and torch.equal(
        first, judge.evaluate(model, tokenizer, PAIRS, 2, seed=5)
    )
    greedy = judge.evaluate(model, tokenizer, PAIRS, 1, seed=0, greedy=True)
    turned = PAIRS.select(range(15, -1, -1))
    again = judge.evaluate(model, tokenizer, turned, 1, seed=0, greedy=True)
    assert torch.allclose(greedy, again.flip(0))


class Inline(Executor):
    """Runs at once, in this process."""

    def submit(self, function, *args):
        future = Future()
        future.set_result(function(*args))
        return future


def test_all_arms_run_through_the_trainer(demo, judge, capsys, monkeypatch):
    monkeypatch.setattr(demo, "translation_pairs", lambda split, cache_dir: PAIRS)
    tokenizer = demo.AutoTokenizer.from_pretrained(demo.START)
    messages, options = queue.Queue(), {"cache_dir": None, "prompts": 10, "samples": 1}
    threads = torch.get_num_threads()
    seeds = demo.run_all(2, Inline(), messages, options)
    torch.set_num_threads(threads)
    assert messages.empty() and [tuple(s) for s in seeds] == [demo.ARMS] * 2
    assert all(len(rewards) == 10 for s in seeds for _, rewards in s.values())
    record = judge.report(seeds, PAIRS, tokenizer, demo.load)
    arms = record["arms"]
    assert next(iter(arms)) == "before" and arms["before"]["gain"] == 0.0
    assert all(arms[a]["moved"] > 0 for a in list(arms)[1:])
    assert not torch.equal(seeds[0]["plain"][0], seeds[1]["plain"][0])
    low, high = arms["targeted"]["gain_95_seeds"]
    assert low <= arms["targeted"]["gain"] <= high
    told = capsys.readouterr().out
    assert "95 %" in told and "targeted minus plain" in told and "English" in told
    json.dumps(record)


def test_facts_name_what_the_figures_depend_on(judge):
    facts = judge.facts()
    assert {"device", "threads", "versions", "commit", "command"} <= facts.keys()
    assert "/" not in facts["command"].split()[1]
