"""The real tasks as the driver's data, from a local file of invented rows."""

import json

import pytest
from iterations.tiny_run import run
from trainer.tiny_llama import build_model, build_tokenizer

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
        max_completion_length=6,
    )  # fmt: skip
    assert plain.phases[-1] == "1.updates"
