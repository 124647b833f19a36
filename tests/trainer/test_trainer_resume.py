"""Killed between two checkpoints, a run goes on from its last step, to the bit."""

import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from optimizer.helpers import same_bits
from peft import LoraConfig, get_peft_model
from trainer.tiny_llama import build_model, prompts, tokens
from trainer.tiny_trainer import trainer
from trainer.tiny_trl import build
from transformers import TrainerCallback

from zopro.steplog import read_log
from zopro.trainer import trees

OPTIONS = {"max_steps": 7, "logging_steps": 3, "save_strategy": "steps", "save_steps": 4}


class Gone(BaseException):
    pass


class Ends(TrainerCallback):
    """As a kill would: nothing after the event `at` of step `step`. `begun`: where training began.

    The first of the callbacks, so that a step's log line or checkpoint may be missing.
    """

    def __init__(self, at=None, step=None):
        self.at, self.step, self.begun = at, step, None

    def on_train_begin(self, args, state, control, **kwargs):
        self.begun = state.global_step

    def _end(self, at, state):
        if (self.at, self.step) == (at, state.global_step):
            raise Gone

    def on_step_begin(self, args, state, control, **kwargs):
        self._end("begin", state)

    def on_step_end(self, args, state, control, **kwargs):
        self._end("end", state)

    def on_log(self, args, state, control, **kwargs):
        self._end("log", state)

    def on_save(self, args, state, control, **kwargs):
        self._end("save", state)


def history(t):
    """What was logged, without times."""
    drop = ("train_runtime", "train_samples_per_second", "train_steps_per_second", "step_time")
    return [{n: v for n, v in e.items() if n not in drop} for e in t.state.log_history]


def rollouts(folder, callback):
    t = build("rloo", folder, num_iterations=2, **OPTIONS)
    t.add_callback(callback)
    return t


def epochs(folder, callback):
    """Of four steps each: the order of the second's prompts is no draw after the first's."""
    t = build("rloo", folder, data=prompts(8), **OPTIONS)
    assert len(t.get_train_dataloader()) == 4
    t.add_callback(callback)
    return t


def inplace(folder, callback):
    return trainer(folder, build_model(), tokens(64), [callback], zo_restore="inplace",
                   gradient_accumulation_steps=2, weight_decay=0.1, **OPTIONS)  # fmt: skip


def adapter(folder, callback):
    base = build_model()
    torch.manual_seed(int(folder.exists()))  # who goes on draws another adapter
    model = get_peft_model(base, LoraConfig(r=2, target_modules=["q_proj", "v_proj"]))
    return trainer(folder, model, tokens(64), [callback], **OPTIONS)


MAKERS = {"rollouts": rollouts, "epochs": epochs, "inplace": inplace, "adapter": adapter}


@pytest.mark.parametrize("kind", MAKERS)
def test_ended_anywhere_it_goes_on_from_the_last_step(kind, tmp_path):
    make = MAKERS[kind]
    whole = make(tmp_path / "whole", Ends())
    whole.train(resume_from_checkpoint=True)  # of nothing: it begins
    run, last = tmp_path / "run", 0
    for at, step in (("begin", 1), ("end", 2), ("log", 3), ("begin", 3), ("end", 4), ("save", 4),
                     ("log", 6), ("begin", 6), ("end", 7)):  # fmt: skip
        t = make(run, ends := Ends(at, step))
        with pytest.raises(Gone):
            t.train(resume_from_checkpoint=True)
        assert ends.begun == last, (at, step)
        last = step if at in ("begin", "save") else step - 1
    t = make(run, ends := Ends())
    t.train(resume_from_checkpoint=True)
    assert ends.begun == 6
    assert same_bits(t.model.parameters(), whole.model.parameters())
    assert history(t) == history(whole)
    assert read_log(run / "steps.zolog").steps == 7


def test_a_damaged_log_or_progress_costs_steps_and_nothing_else(tmp_path, caplog):
    make = MAKERS["inplace"]
    whole = make(tmp_path / "whole", Ends())
    whole.train()
    for name, cut in (("steps.zolog", 90), ("progress.safetensors", 5)):
        run = tmp_path / name
        with pytest.raises(Gone):
            make(run, Ends("begin", 6)).train()
        data = (run / name).read_bytes()
        (run / name).write_bytes(data[:-cut])
        t = make(run, ends := Ends())
        t.train(resume_from_checkpoint=True)
        assert ends.begun == 4 and "goes on from its last checkpoint" in caplog.text
        assert same_bits(t.model.parameters(), whole.model.parameters())
        caplog.clear()


def test_half_a_checkpoint_is_none(tmp_path):
    t = trainer(tmp_path, max_steps=3, save_strategy="steps", save_steps=1, zo_log_steps=False)
    t.train()
    (tmp_path / "checkpoint-3" / "trainer_state.json").write_text('{"global_')
    weights = tmp_path / "checkpoint-2" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    assert t.resume_point() == str(tmp_path / "checkpoint-1")


def test_another_model_is_refused(tmp_path):
    with pytest.raises(Gone):
        trainer(tmp_path, callbacks=[Ends("begin", 2)]).train()
    with pytest.raises(ValueError, match=r"a run that cannot go on: parameter .* other weights"):
        trainer(tmp_path, build_model(seed=5)).train(resume_from_checkpoint=True)


def test_a_new_run_forgets_the_former(tmp_path):
    with pytest.raises(Gone):
        trainer(tmp_path, callbacks=[Ends("begin", 2)]).train()
    with pytest.raises(Gone):
        trainer(tmp_path, callbacks=[Ends("begin", 0)]).train()
    assert trainer(tmp_path).resume_point() is None


leaves = (st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
          | st.lists(st.floats(width=32), max_size=3).map(torch.tensor))  # fmt: skip
nested = st.recursive(
    leaves,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(st.integers() | st.text(), inner, max_size=3)
    ),
    max_leaves=8,
)


@settings(max_examples=60, deadline=None)
@given(nested)
def test_trees_come_back(tmp_path_factory, tree):
    path = tmp_path_factory.mktemp("tree") / "t.safetensors"
    trees.save(path, tree)
    assert alike(trees.load(path), tree)


def alike(a, b):
    if isinstance(b, torch.Tensor):
        return isinstance(a, torch.Tensor) and same_bits([a], [b])
    if isinstance(b, dict):
        return list(a) == list(b) and all(alike(a[n], b[n]) for n in b)
    if isinstance(b, list | tuple):
        return type(a) is type(b) and len(a) == len(b) and all(map(alike, a, b))
    return type(a) is type(b) and json.dumps(a) == json.dumps(b)


def test_what_no_tree_holds(tmp_path):
    with pytest.raises(TypeError, match="a object cannot be saved without pickle"):
        trees.save(tmp_path / "t", {"x": object()})
    (tmp_path / "t").write_bytes(b"\x00" * 20)
    with pytest.raises(ValueError, match="is damaged"):
        trees.load(tmp_path / "t")
