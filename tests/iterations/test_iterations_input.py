"""Bad input: one clear sentence each, before anything is trained."""

import asyncio
import json
import threading

import pytest
from datasets import Dataset
from iterations.tiny_run import config, data, longer, run
from peft import LoraConfig, get_peft_model
from trainer.tiny_llama import build_model, build_tokenizer, prompts, reward_digits

from zopro.iterations import IterationConfig, iterate
from zopro.iterations.data import gather
from zopro.iterations.scoring import timed
from zopro.tasks import get_task


@pytest.mark.parametrize(
    "option, value, sentence",
    [
        ("output_dir", "", "output_dir='' is not allowed"),
        ("method", "mezo", "method='mezo' is not known: use one of 'zopro', 'spsa', 'rloo'"),
        ("first", "zopro", "first='zopro' is not known"),
        ("objective", "dpo", "objective='dpo' is not known"),
        ("schedule", "step", "schedule='step' is not known"),
        ("reward_data", "stars", "reward_data='stars' is not known"),
        ("iterations", 0, "iterations=0 is out of range"),
        ("iterations", 1.5, "iterations=1.5 is no integer"),
        ("seed", -1, "seed=-1 is out of range"),
        ("seed", 2**32, "seed=4294967296 is out of range"),
        ("resume", "yes", "resume='yes' is not allowed: give true or false"),
        ("lora_r", 0, "lora_r=0 is out of range"),
        ("temperature", 0.0, "temperature=0.0 is not allowed"),
        ("boundary", 0.0, r"boundary=0.0 is not allowed: give a share in \(0, 1\]"),
        ("boundary", 1.1, r"boundary=1.1 is not allowed: give a share in \(0, 1\]"),
        ("blend", 1.0, r"blend=1.0 is not allowed: give a share in \[0, 1\)"),
        ("blend", float("nan"), "blend=nan is not allowed"),
        ("chunk", 1.0, r"chunk=1.0 is not allowed: give a share in \(0, 1\)"),
        ("policy", [], "policy is a list: give a mapping of RLOOConfig's fields"),
        ("policy", {"ouput": 1}, "policy holds 'ouput', which RLOOConfig has not"),
        ("policy", {"zo_eps": 1}, "policy holds 'zo_eps', which RLOOConfig has not"),
        ("zeroth", {"output_dir": "y"}, "zeroth holds 'output_dir', which the driver sets"),
        ("zeroth", {"zo_seed": 1}, "zeroth holds 'zo_seed', which the driver sets"),
    ],
)
def test_options(option, value, sentence):
    with pytest.raises((ValueError, TypeError), match=sentence):
        IterationConfig(**{"output_dir": "x", option: value})


EMPTY = Dataset.from_dict({"prompt": []})


@pytest.mark.parametrize(
    "rows, sentence",
    [
        ({}, "the data have no 'prompts': give a dataset"),
        ({"prompts": EMPTY}, "the dataset 'prompts' is empty"),
        ({"prompts": prompts(8)}, "the data have no 'reward'"),
        ({**data(), "reward": EMPTY}, "the dataset 'reward' is empty"),
        ({**data(), "reward": prompts(8)}, "the dataset 'reward' has no column 'chosen', only"),
        ({**data(), "pairs": prompts(8)}, "the data hold 'pairs': use prompts, reward, supervised"),
        ({**data(), "prompts": ["a"]}, "the data's 'prompts' is a list: give a Dataset"),
        (
            {**data(), "prompts": Dataset.from_dict({"prompt": ["w1", " ".join(["w1"] * 13)]})},
            "prompt 1 has 13 tokens, over max_prompt_length=12: shorten or drop it",
        ),
    ],
)
def test_data(rows, sentence, tmp_path):
    with pytest.raises((ValueError, TypeError), match=sentence):
        run(tmp_path / "run", rows)
    assert not (tmp_path / "run").exists()


def test_supervised_without_its_data(tmp_path):
    with pytest.raises(ValueError, match="the data have no 'supervised'"):
        run(tmp_path / "run", supervised={})


def test_rows_that_are_all_too_long(tmp_path):
    rows = {**data(), "reward": data()["reward"].map(lambda r: {"chosen": " cat" * 40})}
    with pytest.raises(ValueError, match="every row of the reward model's data is over max_length"):
        run(tmp_path / "run", rows)

    long = Dataset.from_dict({"prompt": ["w1 " * 40] * 8, "completion": [" cat"] * 8})
    with pytest.raises(ValueError, match="every row of the supervised data is over max_length=17"):
        run(tmp_path / "sft", data(supervised=long), supervised={})


def test_judge_or_rewards(tmp_path):
    def go(**options):
        return iterate(config(tmp_path / "run"), data(), **options)

    with pytest.raises(ValueError, match="judge=None: give a judge for the reward model, or rew"):
        go()
    with pytest.raises(ValueError, match="judge is given beside reward_funcs"):
        go(judge=longer, reward_funcs=[reward_digits])
    with pytest.raises(TypeError, match="judge is a str: give a callable"):
        go(judge="gpt")
    with pytest.raises(ValueError, match="tokenizer=None: hand iterate"):
        go(judge=longer)
    with pytest.raises(ValueError, match="model=None: name a model or a folder"):
        go(judge=longer, tokenizer=build_tokenizer())


def test_models_that_do_not_serve(tmp_path):
    adapted = get_peft_model(build_model(), LoraConfig(task_type="CAUSAL_LM", r=2))
    with pytest.raises(ValueError, match="model is a PeftModel: merge its adapter"):
        run(tmp_path / "a", model=adapted)
    with pytest.raises(ValueError, match="lora_r=None trains all weights, and a reward model"):
        run(tmp_path / "b", lora_r=None)
    with pytest.raises(ValueError, match="are 75 tokens, and the model has 64 positions"):
        run(tmp_path / "c", max_prompt_length=70)


WAYS = pytest.mark.parametrize(
    "way", [{"first": "rloo"}, {"first": "spsa"}, {"first": "spsa", "objective": "samples",
                                                   "policy": {"num_generations": 2}}],
    ids=["first order", "zeroth order", "samples"],
)  # fmt: skip


@WAYS
def test_rewards_that_raise_or_return_no_number(way, tmp_path):
    def raises(completions, **columns):
        raise KeyError("no such word")

    def nan(completions, **columns):
        return [float("nan")] * len(completions)

    def short(completions, **columns):
        return [0.0] * (len(completions) - 1)

    rows = {"prompts": prompts(16)}
    with pytest.raises(RuntimeError, match="'raises' raised KeyError"):
        run(tmp_path / "a", rows, call={"reward_funcs": [raises]}, **way)
    with pytest.raises(ValueError, match="'nan' returned nan for completion 0"):
        run(tmp_path / "b", rows, call={"reward_funcs": [nan]}, **way)
    with pytest.raises(ValueError, match="'short' returned 3 rewards for 4 completions"):
        run(tmp_path / "c", rows, call={"reward_funcs": [short]}, **way)


@WAYS
def test_rewards_that_take_too_long(way, tmp_path):
    waiting = threading.Event()

    def slow(completions, **columns):
        waiting.wait(20)
        return [0.0] * len(completions)

    call = {"reward_funcs": [slow]}
    sentence = r"'slow' raised TimeoutError: it took over reward_timeout=0.2 seconds"
    with pytest.raises(RuntimeError, match=sentence):
        run(tmp_path / "a", {"prompts": prompts(16)}, call=call, reward_timeout=0.2, **way)
    waiting.set()
    more = {"reward_timeout": 20, "iterations": 1, **way}
    run(tmp_path / "b", {"prompts": prompts(16)}, call=call, **more)


@pytest.mark.parametrize("first", ["rloo", "spsa"])
def test_fewer_prompts_than_a_batch(first, tmp_path):
    rows = {**data(), "prompts": prompts(1)}
    with pytest.raises(ValueError, match="has 1 prompts, and one batch of rollouts takes 2"):
        run(tmp_path / "run", rows, first=first)


def test_a_task_serves_as_data(tmp_path):
    """Any object of the protocol; the driver asks it for what its options need, and for no more."""

    asked = []

    class Task:
        def load(self, split, conversational, limit):
            asked.append(("load", split, conversational, limit))
            return Dataset.from_dict({"prompt": ["w1 " * 20] * 16})

        def fit(self, dataset, tokenizer, tokens):
            return dataset.map(lambda row: {"prompt": " ".join(row["prompt"].split()[:tokens])})

        def preference_pairs(self, split, conversational, limit):
            asked.append(("preference_pairs", split, conversational, limit))
            return data()["reward"]

    tokenizer = build_tokenizer()
    tokenizer.chat_template = None
    out = run(tmp_path / "run", Task(), tokenizer=tokenizer, iterations=1,
              call={"load": {"limit": 16}})  # fmt: skip
    assert asked == [("load", "train", False, 16), ("preference_pairs", "train", False, 16)]
    assert "0.updates" in out.phases


def test_coroutines_are_timed_too():
    async def slow(completions, **columns):
        await asyncio.sleep(30)

    class Quick:
        __name__ = "quick"

        async def __call__(self, completions, **columns):
            return [1.0] * len(completions)

    limited = timed(slow, 0.05)
    assert limited.__name__ == "slow"
    with pytest.raises(TimeoutError, match=r"it took over reward_timeout=0.05 seconds"):
        asyncio.run(limited(completions=["a"]))
    assert asyncio.run(timed(Quick(), 5.0)(completions=["a"])) == [1.0]

    async def own(completions, **columns):
        raise TimeoutError("the service's own")

    with pytest.raises(TimeoutError, match="the service's own"):
        asyncio.run(timed(own, 5.0)(completions=["a"]))


def test_prompts_that_are_cut_are_counted(tmp_path, caplog):
    path = tmp_path / "rows.jsonl"
    texts = ["w1 w2 w3 w4 w5 w6 w7 w8 w9 " * 8, "w1 cat"]
    rows = [{"source": texts[i % 2], "reference": "good", "key": str(i)} for i in range(40)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    tokenizer = build_tokenizer()
    tokenizer.chat_template = None
    with caplog.at_level("INFO", "zopro"):
        found = gather(config("x", max_prompt_length=40), get_task("translation"), tokenizer,
                       False, {"source": str(path)})  # fmt: skip
    count = sum(row != texts[1] for row in found.prompts["source"])
    assert count and f"{count} of {len(found.prompts)} prompts are over max_prompt_length=40" in (
        caplog.text
    )
