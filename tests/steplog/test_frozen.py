"""What a run left frozen has digests in the log, and a wrong base is refused by name."""

import logging

import pytest
import torch
from optimizer.helpers import quadratic
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from trainer.tiny_llama import build_model, tokens
from trainer.tiny_trainer import trainer
from transformers import LlamaForCausalLM

from zopro import StepLog, ZOPrO
from zopro.cli import main
from zopro.steplog import read_log
from zopro.steplog.base import Base
from zopro.steplog.frozen import Compared, compare, frozen_of


def changed(model, name, folder):
    """A folder of `model` with another weight in the tensor `name`."""
    model.save_pretrained(folder)
    file = folder / "model.safetensors"
    tensors = load_file(file)
    tensors[name].view(-1)[3] += 1
    save_file(tensors, file, {"format": "pt"})
    return folder


@pytest.fixture
def adapter(tmp_path):
    """The folders of a model and of a run of an adapter on it."""
    base, run = tmp_path / "base", tmp_path / "run"
    build_model().save_pretrained(base)
    config = LoraConfig(r=2, target_modules=["q_proj"], modules_to_save=["lm_head"])
    model = get_peft_model(LlamaForCausalLM.from_pretrained(base), config)
    trainer(run, model, tokens(8), max_steps=1).train()
    return base, run


def replayed(run, out, *more):
    argv = ["replay", str(run / "start_adapter"), str(run / "steps.zolog"), "--out", str(out)]
    return main([*argv, *more])


def test_the_model_below_an_adapter(adapter, tmp_path, capsys):
    base, run = adapter
    frozen = read_log(run / "steps.zolog").head.frozen
    assert len(frozen) == len(load_file(base / "model.safetensors"))
    assert replayed(run, tmp_path / "a") == 0
    told = capsys.readouterr()
    assert f"{len(frozen)} tensors that the run left frozen are those of {base}" in told.out
    assert "compared with nothing" not in told.err

    name = "model.layers.0.self_attn.q_proj.weight"
    other = changed(build_model(), name, tmp_path / "other")
    assert replayed(run, tmp_path / "b", "--model", str(other)) == 2
    error = capsys.readouterr().err
    assert f"base {other} has another {name!r} (SHA-256 " in error and "left frozen" in error
    assert not (tmp_path / "b").exists()
    changed(build_model(), name, base)  # what the adapter names
    assert replayed(run, tmp_path / "b") == 2 and not (tmp_path / "b").exists()


def test_a_model_that_is_not_here_is_told(adapter, tmp_path, capsys):
    base, run = adapter
    base.rename(tmp_path / "moved")
    assert replayed(run, tmp_path / "a") == 0
    error = capsys.readouterr().err
    assert "were compared with nothing" in error and "which is not here" in error
    assert "name the model below the adapter by --model" in error
    assert replayed(run, tmp_path / "b", "--model", str(tmp_path / "moved")) == 0
    assert "tensors that the run left frozen are those of" in capsys.readouterr().out


def test_the_rest_of_a_model_of_which_a_part_is_trained(tmp_path, capsys):
    model = build_model()
    for name, p in model.named_parameters():
        p.requires_grad_("norm" in name)
    name = "model.embed_tokens.weight"
    other = changed(model, name, tmp_path / "other")
    trainer(tmp_path / "run", model, tokens(8), max_steps=1).train()
    argv = [str(other), str(tmp_path / "run" / "steps.zolog"), "--out", str(tmp_path / "out")]
    assert main(["replay", *argv]) == 2
    assert f"has another {name!r}" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


class Wrapped(torch.Tensor):
    """As a tensor that stores others in the place of its elements."""

    def __tensor_flatten__(self):
        raise NotImplementedError


def test_what_is_digested():
    trained = torch.nn.Parameter(torch.ones(3))
    tied = torch.arange(6.0).view(2, 3)
    rest = {
        "trained": trained, "again": trained.detach(), "a": tied, "b": tied, "extra": {"no": 1},
        "bf16": tied.bfloat16(), "int": torch.ones(4, dtype=torch.uint8), "empty": torch.ones(0),
        "meta": torch.ones(3, device="meta"), "wrapped": torch.ones(2).as_subclass(Wrapped),
    }  # fmt: skip
    found = {e.name: e for e in frozen_of(rest, [trained])}
    assert sorted(found) == ["a", "b", "bf16", "empty", "int", "meta", "wrapped"]
    assert found["a"].digest == found["b"].digest != found["bf16"].digest
    assert [n for n, e in found.items() if e.digest is None] == ["meta", "wrapped"]
    with pytest.raises(TypeError, match="frozen is a list: give a model, or tensors by name"):
        frozen_of([tied], [])


def test_what_is_compared(tmp_path):
    weight = torch.linspace(-1, 1, 12).view(3, 4)
    run = {"w": weight.bfloat16(), "tied": weight.bfloat16(), "packed": weight.to(torch.int8),
           "same": torch.arange(4), "base_model.model.q.base_layer.weight": weight,
           "elsewhere": weight + 1}  # fmt: skip
    files = {"w": weight, "packed": weight + 0, "same": torch.arange(4), "q.weight": weight + 0}
    save_file(files, tmp_path / "base.safetensors")
    base, frozen = Base(tmp_path / "base.safetensors"), frozen_of(run, [])
    assert compare(frozen, base) == Compared(4, ("packed", "elsewhere"))
    for name, other in (("w", weight + 1), ("same", torch.arange(1, 5)), ("w", weight.t())):
        save_file({**files, name: other.contiguous()}, tmp_path / "base.safetensors")
        with pytest.raises(ValueError, match=f"has another '{name}'"):
            compare(frozen, Base(tmp_path / "base.safetensors"))


def test_a_run_on_another_model_does_not_go_on_in_the_log(tmp_path, caplog):
    params = [torch.nn.Parameter(torch.ones(3))]

    def log(opt, rest):
        return StepLog(tmp_path / "steps.zolog", opt, frozen=rest)

    with log(opt := ZOPrO(params), {"w": torch.zeros(2)}):
        opt.step(quadratic(params))
    with caplog.at_level(logging.WARNING), log(opt, {"w": torch.zeros(2)}):
        opt.step(quadratic(params))
    assert not caplog.text and read_log(tmp_path / "steps.zolog").steps == 2
    with log(opt, {"w": torch.ones(2)}):
        opt.step(quadratic(params))
    assert "it is kept as steps.zolog.old" in caplog.text
    assert read_log(tmp_path / "steps.zolog").head.steps == 2
