"""A population in a training step: the losses and steps of directions that are scored singly."""

import pytest
import torch
from peft import LoraConfig
from trainer.tiny_llama import build_model
from trainer.tiny_trl import build

from zopro.steplog import read_log, replay
from zopro.trainer import populated
from zopro.trainer.populated import spread_of

OPTIONS = {"max_steps": 3, "logging_steps": 1, "learning_rate": 0.01, "zo_eps": 1e-2,
           "per_device_train_batch_size": 4, "zo_estimator": "one_sided"}  # fmt: skip


def run(folder, name="rloo", train="lora", before=None, **options):
    """Trained weights, logs, trainer."""
    folder.mkdir(exist_ok=True)
    model, adapter = build_model(), None
    for n, p in model.named_parameters():
        p.requires_grad_(n == "model.norm.weight")
    torch.manual_seed(0)
    if train == "lora":
        adapter = LoraConfig(r=4, target_modules="all-linear")
    t = build(name, folder, model=model, peft_config=adapter, **{**OPTIONS, **options})
    if before is not None:
        before(t)
    t.train()
    weights = [p.detach().clone() for p in t.model.parameters() if p.requires_grad]
    return torch.cat([w.flatten() for w in weights]), t.state.log_history, t


TIMES = ("step_time", "train_runtime", "train_samples_per_second", "train_steps_per_second")


def same(got, want):
    torch.testing.assert_close(got[0], want[0], rtol=1e-5, atol=1e-7)
    for ours, theirs in zip(got[1], want[1], strict=True):
        for name in set(ours) & set(theirs) - set(TIMES):
            assert ours[name] == pytest.approx(theirs[name], rel=1e-3, abs=1e-6), name


@pytest.mark.parametrize("name, train, more", [
    ("rloo", "lora", {"zo_estimator": "two_sided", "beta": 0.1}),
    ("rloo", "last_norm", {"num_iterations": 2}),
    ("rloo", "lora", {"gradient_accumulation_steps": 2, "zo_restore": "inplace"}),
    ("grpo", "lora", {"gradient_accumulation_steps": 2}),
])  # fmt: skip
def test_steps_are_those_of_single_directions(tmp_path, name, train, more):
    """Metrics too: the batch counts once. In one forward, and in several."""
    want = run(tmp_path / "a", name, train, zo_num_directions=3, **more)
    got = run(tmp_path / "b", name, train, zo_population=3, **more)
    same(got, want)
    if "zo_restore" not in more:
        same(run(tmp_path / "c", name, train, zo_population=3, zo_population_sequences=8, **more),
             want)  # fmt: skip


def test_targets_and_noise(tmp_path):
    def aim(t):
        params = {n: p for n, p in t.model.named_parameters() if p.requires_grad}
        generator = torch.Generator().manual_seed(3)
        t.set_targets({n: torch.randn(p.shape, generator=generator) for n, p in params.items()})

    more = {"before": aim, "zo_noise_every": 1, "zo_estimator": "two_sided"}
    want = run(tmp_path / "a", zo_num_directions=2, **more)
    got = run(tmp_path / "b", zo_population=2, **more)
    assert got[1][0]["zo_loss_noise"] >= 0 and got[1][0]["zo_d"] == want[1][0]["zo_d"]
    torch.testing.assert_close(got[0], want[0], rtol=1e-5, atol=1e-7)


def test_a_direction_a_response(tmp_path):
    """The step is the mean over responses of each one's own slope along its own direction."""
    more = {"zo_population_mapping": "per_response", "max_steps": 1, "logging_steps": 1}
    _, logs, t = run(tmp_path / "a", zo_population=4, **more)
    last = t.zopro.last
    assert len(last.projected_gradients) == 4 and len(set(last.losses_plus)) == 4
    whole = run(tmp_path / "b", zo_num_directions=1, max_steps=1)[1]
    assert logs[0]["loss"] == pytest.approx(whole[0]["loss"], abs=0.05)
    assert logs[0]["entropy"] == pytest.approx(whole[0]["entropy"], rel=1e-3)


def test_the_step_log_replays_it(tmp_path):
    _, _, t = run(tmp_path / "a", train="last_norm", zo_population=3)
    fresh = build_model().model.norm.weight
    start = fresh.detach().clone()
    replay(read_log(tmp_path / "a" / "steps.zolog"), {"model.norm.weight": fresh})
    assert torch.equal(fresh, t.model.model.norm.weight) and not torch.equal(fresh, start)


def test_eps_is_found_first(tmp_path):
    """By directions one after another; from the second step on together."""
    _, logs, t = run(tmp_path / "a", train="last_norm", zo_population=2, zo_eps="auto")
    assert t.zopro.step_count == 3 and isinstance(logs[-2]["zo_eps"], float)


REFUSED = [
    ("sft", {}, "ZOSFTTrainer's loss is not of rollouts"),
    ("dpo", {}, "ZODPOTrainer's loss is not of rollouts"),
    ("rloo", {"zo_num_directions": 3}, "zo_num_directions=3 beside zo_population=2"),
    ("rloo", {"zo_lookahead": True, "zo_estimator": "two_sided"}, "zo_lookahead=True"),
    ("rloo", {"zo_population_mapping": "per_response"}, "one for each response of a batch"),
    ("rloo", {"zo_population_mapping": "some"}, "zo_population_mapping='some'"),
    ("rloo", {"zo_population": 0}, "zo_population"),
    ("rloo", {"zo_population_sequences": 0}, "zo_population_sequences"),
    ("grpo", {"zo_population": 4, "zo_population_mapping": "per_response", "loss_type": "dapo"},
     "loss_type='dapo' is no mean over responses"),
]  # fmt: skip


@pytest.mark.parametrize("name, more, message", REFUSED)
def test_what_is_refused(tmp_path, name, more, message):
    with pytest.raises(ValueError, match=message):
        build(name, tmp_path, **{"per_device_train_batch_size": 4, "zo_population": 2, **more})


def test_logs_tell_rho_and_the_error_of_the_slopes(tmp_path):
    """With one response's parts summed they are the slopes; rho lies between 0 and sqrt(B)."""
    options = {"zo_population": 6, "zo_estimator": "two_sided", "zo_eps": 1e-3}
    logs = run(tmp_path / "a", **options)[1]
    for entry in logs[:-1]:
        assert entry["zo_population"] == 6 and entry["zo_slope_error"] > 0
        assert 0 < entry["zo_rho"] <= 2.0
    parts = torch.tensor([[1.0, 1.0], [2.0, 2.0]])
    assert spread_of(parts, 0.1)["zo_rho"] == pytest.approx(2**0.5)
    found = spread_of(torch.tensor([[1.0, 3.0], [1.0, 1.0]]), 0.5)
    assert found["zo_slope_error"] == pytest.approx((2.0**2 / 2) ** 0.5 / 0.5)


def test_parts_of_responses_sum_to_the_slopes(tmp_path, monkeypatch):
    seen = []
    inner = populated.spread_of
    monkeypatch.setattr(
        populated, "spread_of", lambda s, eps: seen.append((s, eps)) or inner(s, eps)
    )
    _, _, t = run(
        tmp_path / "a", zo_population=6, zo_estimator="two_sided", zo_eps=1e-3, max_steps=1
    )
    parts, eps = seen[0]
    assert parts.shape == (6, 4)
    slopes = torch.tensor(t.zopro.last.projected_gradients).double()
    torch.testing.assert_close(parts.sum(1) / eps, slopes, rtol=0.02, atol=0.02 * slopes.std())


def test_a_family(tmp_path):
    """The steps stay in the span of the updates."""

    def aim(t):
        generator = torch.Generator().manual_seed(3)
        t.given = torch.randn(2, 16, generator=generator)
        t.set_family([{"model.norm.weight": x} for x in t.given])

    options = {"train": "last_norm", "zo_population": 2, "zo_log_steps": False, "before": aim}
    weights, _, t = run(tmp_path / "a", **options)
    step = weights - build_model().model.norm.weight.detach()
    q = torch.linalg.qr(t.given.t())[0]
    torch.testing.assert_close(q @ (q.t() @ step), step, rtol=1e-3, atol=1e-6)
    assert step.norm() > 0
    with pytest.raises(ValueError, match="set_family of 1 updates with zo_population=2"):
        t.set_family([t.given[:1]])
