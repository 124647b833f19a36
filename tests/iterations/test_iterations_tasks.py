"""The real tasks as the driver's data, from a local file of invented rows."""

import json

import pytest
from iterations.tiny_run import config, run, scores
from trainer.tiny_llama import build_model, build_tokenizer, prompts

from zopro.iterations.data import gather
from zopro.tasks import get_task


@pytest.mark.parametrize("name", ["summarisation", "translation", "dialogue"])
def test_two_iterations_of_each_task(name, tmp_path):
    task = get_task(name)
    rows = [
        {"source": f"w{i} w{i + 1} cat a b", "reference": f"good cat w{i} w{i + 2}"}
        for i in range(30)
    ]
    if name == "dialogue":
        rows = [{**row, "source": f"Human: {row['source']}"} for row in rows]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    tokenizer = build_tokenizer()
    tokenizer.chat_template = None
    load = {"source": str(path), "cache_dir": str(tmp_path / "cache"), "limit": 16}
    out = run(
        tmp_path / "run", task, model=build_model(), tokenizer=tokenizer, call={"load": load},
        supervised={}, max_prompt_length=48, max_completion_length=6,
    )  # fmt: skip
    assert out.phases[:3] == ["start", "supervised", "reward"] and out.phases[-1] == "1.updates"
    call = {"load": load, "reward_funcs": task.reward_funcs()}
    plain = run(
        tmp_path / "plain", task, tokenizer=tokenizer, call=call, max_prompt_length=48,
        max_completion_length=6, zeroth={"learning_rate": 1e-2, "zo_population": 3},
    )  # fmt: skip
    assert plain.phases[-1] == "1.updates"
    lines = (tmp_path / "plain" / "metrics.jsonl").read_text().splitlines()
    assert {3} == {x["zo_population"] for x in map(json.loads, lines) if "zo_population" in x}


def test_auto_takes_scores_where_there_are_no_human_pairs(tmp_path):
    scored = {"source": "a b", "reference": "x", "completion": "y", "score": 0.5}
    paired = {**scored, "chosen": "x", "rejected": "y"}
    task = get_task("translation")
    for name, row, want in [("scored", scored, "scores"), ("both", paired, "pairs"),
                            ("plain", {"source": "a b", "reference": "x"}, "pairs")]:  # fmt: skip
        path = tmp_path / f"{name}.jsonl"
        path.write_text("".join(json.dumps({**row, "key": str(i)}) + "\n" for i in range(50)))
        assert task.feedback("train", str(path)) == want
        found = gather(config("x", max_prompt_length=64), task, build_tokenizer(), True,
                       {"source": str(path), "limit": 4})  # fmt: skip
        assert ("score" in found.reward.column_names) == (want == "scores")
    assert task.feedback("train", "hub") == "scores"  # quality estimates, no comparisons
    assert get_task("summarisation").feedback("train", "hub") == "pairs"
    assert task.feedback("train") == "pairs"  # made ones


def test_auto_goes_by_the_columns_of_datasets():
    rows = {"prompts": prompts(16), "reward": scores()}
    assert "score" in gather(config("x"), rows, build_tokenizer(), True, {}).reward.column_names
    with pytest.raises(ValueError, match="has no column 'chosen'"):
        gather(config("x", reward_data="pairs"), rows, build_tokenizer(), True, {})
