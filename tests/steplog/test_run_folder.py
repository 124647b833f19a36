"""The trainers' log, and `zopro replay` from a model's, an adapter's folder or a file."""

import csv
import json

import pytest
import safetensors.torch
import torch
from optimizer.helpers import same_bits
from peft import LoraConfig, get_peft_model
from trainer.tiny_llama import build_model, tokens
from trainer.tiny_trainer import trainer
from transformers import LlamaForCausalLM

from zopro import StepLog, ZOPrO
from zopro.cli import main
from zopro.steplog import read_log

OPTIONS = {"max_steps": 6, "weight_decay": 0.1, "gradient_accumulation_steps": 2,
           "zo_num_directions": 2, "save_strategy": "steps", "save_steps": 3}  # fmt: skip


def replayed(base, run, out, *more):
    assert main(["replay", str(base), str(run / "steps.zolog"), "--out", str(out), *more]) == 0
    return LlamaForCausalLM.from_pretrained(out)


@pytest.mark.parametrize("restore", ("exact", "inplace"))
def test_a_run_and_a_resumed_run(tmp_path, restore):
    base, run = tmp_path / "base", tmp_path / "run"
    build_model().save_pretrained(base)
    whole = build_model()
    trainer(run, whole, tokens(64), zo_restore=restore, **OPTIONS).train()
    ends = list(whole.parameters())
    assert same_bits(replayed(base, run, tmp_path / "end").parameters(), ends)
    third = LlamaForCausalLM.from_pretrained(run / "checkpoint-3")
    found = replayed(base, run, tmp_path / "third", "--step", "3")
    assert same_bits(found.parameters(), third.parameters())

    t = trainer(run, build_model(seed=1), tokens(64), zo_restore=restore, **OPTIONS)
    t.train(resume_from_checkpoint=str(run / "checkpoint-3"))
    log = read_log(run / "steps.zolog")
    assert log.steps == 6 and [type(r).__name__ for r in log.records].count("Resume") == 1
    assert same_bits(replayed(base, run, tmp_path / "again").parameters(), ends)


def test_a_model_in_another_dtype_than_its_file(tmp_path):
    base, run = tmp_path / "base", tmp_path / "run"
    build_model().to(torch.bfloat16).save_pretrained(base)
    model = LlamaForCausalLM.from_pretrained(base, dtype=torch.float32)
    trainer(run, model, max_steps=2).train()
    found = LlamaForCausalLM.from_pretrained(replayed(base, run, tmp_path / "end").name_or_path,
                                             dtype="auto")  # fmt: skip
    assert same_bits(found.parameters(), model.parameters())


def test_shards(tmp_path):
    base, run = tmp_path / "base", tmp_path / "run"
    model = build_model()
    model.save_pretrained(base, max_shard_size="8KB")
    assert (base / "model.safetensors.index.json").exists()
    trainer(run, model, max_steps=2).train()
    found = replayed(base, run, tmp_path / "end")
    assert same_bits(found.parameters(), model.parameters())


def test_what_a_run_did_not_train_is_told(tmp_path, capsys):
    base, run = tmp_path / "base", tmp_path / "run"
    model = build_model()
    model.save_pretrained(base)
    norms = [n for n, _ in model.named_parameters() if "norm" in n]
    for name, p in model.named_parameters():
        p.requires_grad_(name in norms)
    trainer(run, model, max_steps=1).train()
    count = len(list(model.parameters())) - len(norms)
    replayed(base, run, tmp_path / "end")
    said = f"{count} tensors that the run left frozen are those of {base}"
    assert said in capsys.readouterr().out
    params = [p for p in model.parameters() if p.requires_grad]
    StepLog(tmp_path / "bare.zolog", ZOPrO([(n, p) for n, p in model.named_parameters()])).close()
    log = read_log(tmp_path / "bare.zolog")
    assert len(params) == len(log.head.parameters) and log.head.frozen is None
    model.save_pretrained(tmp_path / "bare")
    argv = [str(tmp_path / "bare"), str(tmp_path / "bare.zolog"), "--out", str(tmp_path / "x")]
    assert main(["replay", *argv]) == 0
    said = f"zopro: {count} tensors that the log does not train"
    assert said in capsys.readouterr().err


def test_an_adapter_begins_from_its_kept_start(tmp_path):
    config = LoraConfig(r=4, target_modules=["q_proj", "v_proj"], modules_to_save=["lm_head"])
    model = get_peft_model(build_model(), config)
    trainer(tmp_path, model, max_steps=4).train()
    start, out = tmp_path / "start_adapter", tmp_path / "out"
    log = str(tmp_path / "steps.zolog")
    assert main(["replay", str(start), log, "--out", str(out), "--backend", "reference"]) == 0
    model.save_pretrained(tmp_path / "end")
    name = "adapter_model.safetensors"
    ours, theirs = (safetensors.torch.load_file(d / name) for d in (out, tmp_path / "end"))
    assert ours.keys() == theirs.keys() and same_bits(ours.values(), [theirs[k] for k in ours])
    assert (out / "adapter_config.json").exists()
    assert main(["replay", str(start / name), log, "--out", str(tmp_path / "file")]) == 0
    assert (tmp_path / "file" / name).read_bytes() == (out / name).read_bytes()


def test_off(tmp_path):
    trainer(tmp_path, max_steps=1, zo_log_steps=False).train()
    assert not (tmp_path / "steps.zolog").exists()


def test_tables(tmp_path, capsys):
    trainer(tmp_path, **(OPTIONS | {"save_strategy": "no"})).train()
    log = tmp_path / "steps.zolog"
    capsys.readouterr()
    assert main(["replay", str(log), "--show"]) == 0
    shown = capsys.readouterr().out
    assert "seed 42, distribution rademacher, num_directions 2" in shown
    assert "options: eps [0.001, 0.001], weight_decay [0.1, 0.0]" in shown
    assert "mark: after step 6" in shown and len(shown.splitlines()) == 3 + 1 + 6 + 1
    slopes = [r.slopes for r in read_log(log).records if hasattr(r, "slopes")]
    for kind in ("csv", "jsonl"):
        path = tmp_path / f"table.{kind}"
        assert main(["replay", str(log), "--export", kind, str(path)]) == 0
        with open(path, newline="") as file:
            rows = list(csv.DictReader(file)) if kind == "csv" else [json.loads(x) for x in file]
        assert [(float(r["slope_0"]), float(r["slope_1"])) for r in rows] == slopes


@pytest.mark.parametrize("argv,words", [
    (["LOG"], "out is missing"),
    (["LOG", "--out", "x"], "BASE and LOG, 1 paths"),
    (["a", "b", "LOG", "--show"], "one path too many"),
    (["LOG", "--export", "xml", "x"], "use csv or jsonl"),
    (["none", "LOG", "--out", "x"], "none does not exist"),
    (["BASE", "LOG", "--out", "BASE"], "exists: name a folder that is new"),
    (["BASE", "LOG", "--out", "x", "--step", "9"], "until=9 is not in the log"),
    (["BASE", "LOG", "--out", "x", "--backend", "cu"], "backend='cu' is not known"),
    (["OTHER", "LOG", "--out", "x"], "has other weights than the run started from"),
    (["BASE", "BASE/config.json", "--out", "x"], "is no step log"),
    (["BASE", "missing", "--out", "x"], "No such file"),
])  # fmt: skip
def test_refusals(tmp_path, monkeypatch, capsys, argv, words):
    monkeypatch.chdir(tmp_path)
    build_model().save_pretrained("BASE")
    build_model(seed=1).save_pretrained("OTHER")
    trainer("run", max_steps=1).train()
    argv = [a.replace("LOG", "run/steps.zolog") for a in argv]
    capsys.readouterr()
    assert main(["replay", *argv]) == 2
    error = capsys.readouterr().err
    assert words in error and error.startswith("zopro: error: ")
    assert not (tmp_path / "x").exists()
