"""The fifteen defects of the method's reference implementation, by their numbers: 9 to 13.

Each check passes on this package and fails on a small stand-in that has the defect.
"""

import json
import time

import pytest
import torch
from defects import PLAIN, fails_on, one, square
from torch.utils._python_dispatch import TorchDispatchMode
from trainer.tiny_llama import build_model, build_tokenizer, prompts, reward_digits, tokens
from trainer.tiny_trainer import ZOTrainer, arguments
from transformers import TrainerCallback

from zopro import ZOPrO, ZOPrOConfig, ZOPrOTrainer
from zopro.cli.progress import Progress
from zopro.iterations import models
from zopro.iterations.store import RunFolder
from zopro.trainer.resumable import last_checkpoint


@pytest.fixture(autouse=True)
def quiet(monkeypatch):
    monkeypatch.setenv("CI", "1")  # TRL sends no telemetry
    torch.set_num_threads(1)


def test_09_checkpoints_are_of_one_phase_and_resume_false_starts_anew(tmp_path):
    class OnePath(RunFolder):
        def checkpoints(self, phase):
            return self.path / "checkpoints"

    def check(cls):
        folder = cls(str(tmp_path / cls.__name__), {}, True)
        left = folder.checkpoints("0.policy") / "checkpoint-3"
        left.mkdir(parents=True)
        (left / "trainer_state.json").write_text('{"global_step": 3}')
        assert last_checkpoint(folder.checkpoints("0.policy")) == str(left)
        assert last_checkpoint(folder.checkpoints("1.policy")) is None

    check(RunFolder)
    fails_on(check, OnePath)
    with pytest.raises(FileExistsError, match="resume is False"):
        RunFolder(str(tmp_path / "RunFolder"), {}, False)


def test_09_a_trainer_resumes_where_it_is_asked_alone(tmp_path):
    class Forces(ZOTrainer):
        def train(self, resume_from_checkpoint=None):
            return super().train(resume_from_checkpoint=True)

    def check(cls):
        began = []

        class Began(TrainerCallback):
            def on_step_begin(self, args, state, control, **kwargs):
                began.append(state.global_step)

        args = arguments(tmp_path / cls.__name__, max_steps=2, save_strategy="steps", save_steps=1)
        for resume in (None, False):  # the second finds the first one's checkpoints
            cls(build_model(), args, None, tokens(), callbacks=[Began]).train(resume)
        assert began == [0, 1, 0, 1]

    check(ZOTrainer)
    fails_on(check, Forces)


def test_10_the_end_of_sequence_is_trained(tmp_path):
    tokenizer = build_tokenizer()
    tokenizer.pad_token = tokenizer.eos_token
    models.prepare_tokenizer(tokenizer)
    end, kept = tokenizer.eos_token_id, []

    class Keeps(ZOPrOTrainer):
        def _compute_loss(self, model, inputs):
            kept.append((inputs["completion_ids"], inputs["completion_mask"]))
            return super()._compute_loss(model, inputs)

    args = arguments(tmp_path, ZOPrOConfig, max_steps=1, max_completion_length=16,
                     per_device_train_batch_size=16, **PLAIN)  # fmt: skip
    Keeps(build_model(), reward_digits, args, prompts(), processing_class=tokenizer).train()
    ids, mask = kept[0]

    def check(ids, mask):
        rows = (ids == end).any(dim=1)
        first = (ids == end).float().argmax(dim=1)
        assert rows.any() and all(mask[rows, first[rows]] == 1)
        assert all(mask[i, first[i] + 1 :].sum() == 0 for i in rows.nonzero())

    check(ids, mask)
    before_the_end = torch.cumsum(ids == end, dim=1) == 0  # length = first pad - 1, pad = eos
    fails_on(check, ids, before_the_end.long())


def test_11_slow_rates_are_not_truncated_to_0(tmp_path):
    class Truncates(RunFolder):
        def log(self, phase, step, values):
            super().log(phase, step, {name: int(value) for name, value in values.items()})

    def check(cls):
        folder = cls(str(tmp_path / cls.__name__), {}, True)
        folder.path.mkdir()
        folder.log("0.policy", 1, {"samples_per_second": 0.25})
        line = json.loads((folder.path / "metrics.jsonl").read_text())
        assert line["samples_per_second"] == 0.25

    check(RunFolder)
    fails_on(check, Truncates)

    class Rounds(Progress):
        def _rate(self, tokens):
            return {n: f"{float(v):.0f}" for n, v in super()._rate(tokens).items()}

    def shows(cls):
        bar = cls()
        bar._began, bar._tokens, bar._first = time.monotonic() - 100.0, None, 0
        assert float(bar._rate(25)["tok/s"]) == pytest.approx(0.25, rel=0.1)

    shows(Progress)
    fails_on(shows, Rounds)


def test_12_all_weights_are_aimed_and_stay_parameters(tmp_path):
    def check(model, aimed):
        parameters = list(model.parameters())
        assert aimed == len(parameters)
        assert not any(p.is_inference() for p in parameters)

    model = build_model()
    update = {n: torch.ones_like(p) for n, p in model.named_parameters()}
    args = arguments(tmp_path, ZOPrOConfig, max_steps=1, max_completion_length=4, **PLAIN)
    t = ZOPrOTrainer(model, reward_digits, args, prompts(), processing_class=build_tokenizer())
    t.set_targets(update)
    t.train()
    aimed = len(t.zopro._targets.prev)
    check(t.model, aimed)
    fails_on(check, t.model, 0)
    with torch.inference_mode():
        faulty = build_model()
    fails_on(check, faulty, aimed)


def test_13_targets_stay_where_the_weights_are():
    class Copies(TorchDispatchMode):
        def __init__(self, held):
            super().__init__()
            self.held, self.seen = {t.data_ptr() for t in held}, 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            copying = any(n in str(func) for n in ("_to_copy", "clone", "copy_"))
            given = [a.data_ptr() for a in args if isinstance(a, torch.Tensor)]
            self.seen += copying and any(g in self.held for g in given)
            return func(*args, **(kwargs or {}))

    class HandsOver(ZOPrO):
        def step(self, closure=None):
            for held in self._targets.prev.values():
                held.to("cpu", copy=True)
            return super().step(closure)

    def check(cls):
        p, opt = one(cls=cls)
        held = [*opt._targets.prev.values(), *opt._targets.v.values()]
        assert all(t.device == p.device for t in held)
        with Copies(held) as copies:
            for _ in range(3):
                opt.step(square(p))
        assert copies.seen == 0

    check(ZOPrO)
    fails_on(check, HandsOver)
