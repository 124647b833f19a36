"""Interrupted in any phase, a run goes on where it was and ends where it would have ended."""

import json

import pytest
from iterations.tiny_run import (
    TRAINER,
    Stop,
    StopAt,
    config,
    data,
    ends,
    longer,
    run,
    same,
    supervised,
)
from safetensors.torch import load_file

from zopro.iterations.store import RunFolder
from zopro.iterations.training import LogLines
from zopro.trainer.resumable import last_checkpoint

OPTIONS = {"supervised": {}, "blend": 0.5}
PHASES = ["supervised", "reward", "0.policy", "0.refine", "1.policy", "1.refine"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return ends(go(tmp_path_factory.mktemp("whole") / "run"))


def go(folder, **more):
    return run(folder, data(supervised=supervised()), **{**OPTIONS, **more})


def weights(folder):
    phases = folder / "phases" / "1.policy" / "policy.safetensors"
    return load_file(phases)


@pytest.mark.parametrize("phase", PHASES)
def test_stopped_in_a_trainer(phase, tmp_path, whole):
    with pytest.raises(Stop):
        go(tmp_path / "run", call={"callbacks": [StopAt(phase)]})
    state = json.loads((tmp_path / "run" / "state.json").read_text())
    assert state["phase"] == phase and phase not in state["done"]
    checkpoint = last_checkpoint(tmp_path / "run" / "checkpoints" / phase)
    assert checkpoint.endswith(f"{phase}/checkpoint-1")
    out = go(tmp_path / "run")
    assert same(ends(out), whole)
    lines = [json.loads(x) for x in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    steps = [x["step"] for x in lines if x["phase"] == phase and "loss" in x]
    assert steps == [1, 2]
    assert not list((tmp_path / "run" / "checkpoints").glob("*"))


@pytest.mark.parametrize("phase", ["0.pairs", "1.pairs"])
def test_stopped_at_the_judge(phase, tmp_path, whole):
    asked = []

    def fails(prompts, firsts, seconds):
        asked.append(len(prompts))
        if len(asked) == int(phase[0]) + 1:
            raise Stop("no power")
        return longer(prompts, firsts, seconds)

    with pytest.raises(RuntimeError, match="the judge raised Stop: no power"):
        go(tmp_path / "run", judge=fails)
    assert json.loads((tmp_path / "run" / "state.json").read_text())["phase"] == phase
    assert same(ends(go(tmp_path / "run")), whole)


def test_stopped_between_every_two_phases(tmp_path, whole, monkeypatch):
    """The power goes after each phase's files are written and before it counts as done."""
    finish, stopped = RunFolder.finish, []

    def once(self, phase):
        if phase not in stopped:
            stopped.append(phase)
            raise Stop(phase)
        finish(self, phase)

    monkeypatch.setattr(RunFolder, "finish", once)
    for _ in range(20):
        try:
            out = go(tmp_path / "run")
            break
        except Stop:
            continue
    assert out.phases == stopped and len(stopped) == 11
    left = tmp_path / "run" / "checkpoints" / "0.policy"  # as a kill in the removal would leave it
    left.mkdir(parents=True)
    go(tmp_path / "run")
    assert not left.exists()
    assert same(ends(out), whole)
    lines = [json.loads(x) for x in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [x["phase"] for x in lines if x.get("event") == "done"] == stopped
    for phase in PHASES:
        assert [x["step"] for x in lines if x["phase"] == phase and "loss" in x] == [1, 2]


def test_stopped_before_the_first_checkpoint(tmp_path, whole):
    with pytest.raises(Stop):
        go(tmp_path / "run", call={"callbacks": [StopAt("1.policy", 0)]})
    assert same(ends(go(tmp_path / "run")), whole)


def test_half_a_checkpoint_and_half_a_line_are_passed_over(tmp_path, whole):
    with pytest.raises(Stop):
        go(tmp_path / "run", call={"callbacks": [StopAt("1.policy")]})
    torn = tmp_path / "run" / "checkpoints" / "1.policy" / "checkpoint-9"
    torn.mkdir()
    (torn / "adapter_model.safetensors").write_bytes(b"half")
    with open(tmp_path / "run" / "metrics.jsonl", "a") as file:
        file.write('{"phase": "1.po')
    assert same(ends(go(tmp_path / "run")), whole)


def test_chunked_run_resumes_to_the_bit(tmp_path):
    options = {"chunk": 0.5, "trainer": {**TRAINER, "max_steps": 4}}
    straight = ends(run(tmp_path / "a", **options))
    for phase in ("0.policy.1", "1.policy.1"):
        with pytest.raises(Stop):
            run(tmp_path / "b", call={"callbacks": [StopAt(phase)]}, **options)
    assert same(ends(run(tmp_path / "b", **options)), straight)


def test_a_finished_run_is_not_run_again(tmp_path):
    first = ends(run(tmp_path / "run", iterations=1))
    again = run(tmp_path / "run", iterations=1, judge=lambda *a: 1 / 0)
    assert same(ends(again), first)


def test_anew_only_in_an_empty_folder(tmp_path):
    run(tmp_path / "run", iterations=1)
    with pytest.raises(FileExistsError, match="is not empty and resume is False"):
        run(tmp_path / "run", iterations=1, resume=False)
    (tmp_path / "empty").mkdir()
    run(tmp_path / "empty", iterations=1, resume=False)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"holds 'notes.txt' but no run"):
        run(tmp_path / "other", iterations=1)


def test_a_run_from_before_an_option_existed_goes_on_with_its_default(tmp_path):
    run(tmp_path / "run", iterations=1)
    path = tmp_path / "run" / "config.json"
    began = json.loads(path.read_text())
    del began["options"]["project"]
    path.write_text(json.dumps(began))
    run(tmp_path / "run", iterations=1)
    with pytest.raises(ValueError, match=r"project=False, but the run in .* began with True"):
        run(tmp_path / "run", iterations=1, project=False)


def test_other_options_and_damage_are_refused(tmp_path):
    run(tmp_path / "run", iterations=1)
    with pytest.raises(ValueError, match=r"blend=0.5, but the run in .* began with 0.0"):
        run(tmp_path / "run", iterations=1, blend=0.5)
    with pytest.raises(ValueError, match="the dataset 'prompts' is another than the one that"):
        run(tmp_path / "run", data(12), iterations=1)
    path = tmp_path / "run" / "phases" / "0.policy" / "policy.safetensors"
    path.write_bytes(b"torn")
    with pytest.raises(ValueError, match=r"policy.safetensors' is damaged"):
        run(tmp_path / "run", iterations=1)
    path.unlink()
    with pytest.raises(ValueError, match=r"'0.policy' is done, but its policy.safetensors is gone"):
        run(tmp_path / "run", iterations=1)
    (tmp_path / "run" / "state.json").write_text("{")
    with pytest.raises(ValueError, match="holds a damaged run"):
        RunFolder(str(tmp_path / "run"), config("x").to_dict(), True)


def test_a_phase_without_a_log_saves_ten_times(tmp_path, monkeypatch):
    """And one that has a log as often as it is told."""
    saved = {}

    def on_save(self, args, state, control, **kwargs):
        saved.setdefault(self._phase, []).append(state.global_step)

    monkeypatch.setattr(LogLines, "on_save", on_save)
    run(tmp_path, iterations=1, first="spsa", save_steps=50,
        trainer={**TRAINER, "max_steps": 21})  # fmt: skip
    policy = saved.pop("0.policy")
    assert all(steps == [*range(2, 21, 2), 21] for steps in saved.values()), saved
    assert len(saved) == 2 and policy == [21]
