"""What is trained besides LoRA: norms, with their reference, reward model, merge and resume."""

import pytest
import torch
from iterations.tiny_run import Stop, StopAt, config, data, longer, run, same, supervised
from peft import PeftModel
from safetensors.torch import load_file
from trainer.tiny_llama import build_model, prompts, reward_digits

from zopro.iterations import models, trained
from zopro.iterations.policy import ZerothOrderTrainer
from zopro.trainer import ZOPrOTrainer

NAME = "base_model.model.model.norm.modules_to_save.default.weight"


def norms(outcome):
    return {n: p.detach().clone() for n, p in models.policy_weights(outcome.policy).items()}


def test_the_last_norm_is_trained_and_the_base_stays(tmp_path, monkeypatch, caplog):
    targets = []
    original = ZOPrOTrainer.set_targets

    def keeps(self, *updates, **options):
        targets.append(updates)
        original(self, *updates, **options)

    monkeypatch.setattr(ZerothOrderTrainer, "set_targets", keeps)
    start = build_model()
    base = {n: p.detach().clone() for n, p in start.named_parameters()}
    with caplog.at_level("INFO"):
        out = run(tmp_path / "run", model=start, train="last_norm", judge=longer)
    ((policy_update, reward_update),) = targets
    assert set(policy_update) == {NAME} == set(norms(out)) and reward_update is None
    assert "nothing is projected out" in caplog.text
    assert set(load_file(tmp_path / "run" / "phases" / "1.policy" / "policy.safetensors")) == {NAME}
    ids = torch.tensor([[5, 6, 7, 8]])
    with torch.no_grad(), out.policy.disable_adapter():  # the reference of the KL
        assert torch.equal(out.policy(ids).logits, build_model()(ids).logits)
    inner = out.policy.get_base_model().model.norm.original_module.weight
    assert torch.equal(inner, base["model.norm.weight"])
    assert not torch.equal(norms(out)[NAME], inner)

    out.policy.save_pretrained(str(tmp_path / "saved"), selected_adapters=["default"])
    again = PeftModel.from_pretrained(build_model(), str(tmp_path / "saved"))
    with torch.no_grad():
        assert torch.equal(again(ids).logits, out.policy(ids).logits)


def test_the_reward_model_does_not_move_with_the_policys_norm():
    policy, reward = models.load_policy(config("x", train="last_norm"), build_model(), True)
    ids = torch.tensor([[5, 6, 7, 8]])
    with torch.no_grad():
        score, logits = reward(ids).logits, policy(ids).logits
        models.policy_weights(policy)[NAME].mul_(2)
        assert torch.equal(reward(ids).logits, score) and not torch.equal(
            policy(ids).logits, logits
        )


def test_norms_go_on_to_the_bit_after_a_supervised_start(tmp_path):
    options = {"train": "norms", "supervised": {}, "iterations": 1, "first": "spsa"}
    rows = data(supervised=supervised())
    whole = run(tmp_path / "a", rows, **options)
    assert len(norms(whole)) == len(trained.norms_of(build_model(), False)) > 1
    learnt = load_file(tmp_path / "a" / "phases" / "supervised" / "policy.safetensors")
    base = whole.policy.get_base_model().model.norm.original_module.weight
    assert torch.equal(base, learnt[NAME])  # merged
    with pytest.raises(Stop):
        run(tmp_path / "b", rows, call={"callbacks": [StopAt("0.policy")]}, **options)
    assert same(norms(run(tmp_path / "b", rows, **options)), norms(whole))


def test_all_weights(tmp_path):
    call = {"reward_funcs": [reward_digits]}
    out = run(tmp_path / "run", {"prompts": prompts(16)}, train="all", iterations=1, first="spsa",
              policy={"num_generations": 2, "beta": 0.0}, call=call)  # fmt: skip
    start = dict(build_model().named_parameters())
    assert all(not torch.equal(p, start[n]) for n, p in out.policy.named_parameters())
    with pytest.raises(ValueError, match="train='all' trains all weights, and a reward model"):
        run(tmp_path / "other", train="all")


def test_models_without_such_a_norm_are_refused():
    model = build_model()
    model.model.norm = torch.nn.Identity()
    with pytest.raises(ValueError, match="train='last_norm', but LlamaForCausalLM has no such"):
        models.load_policy(config("x", train="last_norm"), model, True)
    with pytest.raises(ValueError, match="train='head' is not known"):
        config("x", train="head")


def test_defaults_of_zeroth_order_phases(tmp_path):
    seen = {}

    class Look(StopAt):
        def on_train_begin(self, args, state, control, **kwargs):
            seen[args.output_dir.rsplit("/", 1)[1]] = args

    run(tmp_path / "run", train="last_norm", iterations=1, first="spsa", zeroth={},
        call={"callbacks": [Look("none")]})  # fmt: skip
    args, count = seen["0.policy"], build_model().model.norm.weight.numel()
    assert (args.zo_num_directions, args.zo_estimator, args.zo_eps) == (4, "one_sided", 0.02)
    assert (args.num_iterations, args.epsilon, args.learning_rate) == (2, 1e3, 100 / count)
    made = trained.zeroth_order_defaults(config("x"), {"zo_lookahead": True})
    assert made == {"zo_eps": 1e-3, "num_iterations": 2, "epsilon": 1e3}
    made = trained.zeroth_order_defaults(config("x", objective="samples"), {})
    assert set(made) == {"zo_eps", "zo_num_directions", "zo_estimator"}
