"""Policy and reward model on one base, and what goes over from one phase to the next."""

import gc

import pytest
import torch
from iterations.tiny_run import TRAINER, config, data, run, same, supervised
from safetensors.torch import load_file
from trainer.tiny_llama import build_model, build_tokenizer
from transformers import TrainerCallback

from zopro.iterations import models
from zopro.iterations.models import POLICY, REWARD, load_policy, match_updates
from zopro.iterations.scoring import RewardScorer


def loaded(**options):
    return load_policy(config("x", **options), build_model(), True)


def test_reward_reads_the_policys_own_modules():
    policy, reward = loaded()
    trunk = policy.get_base_model().model
    assert reward.trunk is trunk
    own = {p.data_ptr() for p in reward.own().values()}
    others = {p.data_ptr() for p in reward.parameters()} - own
    assert others <= {p.data_ptr() for p in policy.parameters()}
    assert all(".reward." in n or n == "score.weight" for n in reward.own())


class LiveBytes(TrainerCallback):
    """Bytes of all living matrices of the base's shapes, storages counted once."""

    def __init__(self, model):
        self.shapes = {tuple(p.shape) for p in model.parameters() if p.dim() > 1}
        self.base = sum(p.nbytes for p in model.parameters() if p.dim() > 1)
        self.seen, self.phases = [], set()

    def count(self):
        gc.collect()
        live = {}
        for thing in gc.get_objects():
            try:
                if isinstance(thing, torch.Tensor) and tuple(thing.shape) in self.shapes:
                    live[thing.data_ptr()] = thing.nbytes
            except ReferenceError:
                continue
        return sum(live.values())

    def on_step_end(self, args, state, control, **kwargs):
        self.seen.append(self.count())
        self.phases.add(args.output_dir.rsplit("/", 1)[1])


def test_the_base_is_in_memory_once(tmp_path):
    model = build_model()
    watch = LiveBytes(model)

    def judge(prompts, firsts, seconds):
        watch.seen.append(watch.count())
        return [0] * len(prompts)

    trainer = {**TRAINER, "max_steps": 1}
    run(tmp_path / "run", data(supervised=supervised()), model=model, judge=judge,
        call={"callbacks": [watch]}, trainer=trainer, supervised={})  # fmt: skip
    assert {"supervised", "reward", "0.policy", "0.refine", "1.policy", "1.refine"} == watch.phases
    assert watch.base > 0 and set(watch.seen) == {watch.base}
    copy = build_model()  # and a second copy would have been seen
    assert watch.count() == 2 * watch.base, copy


def test_active_trains_the_one_adapter():
    policy, _ = loaded()
    with models.active(policy, REWARD):
        trained = {n for n, p in policy.named_parameters() if p.requires_grad}
        assert trained and all(".reward." in n for n in trained)
        with models.active(policy, REWARD):
            pass
        assert policy.active_adapter == REWARD
    assert policy.active_adapter == POLICY
    assert {n for n, p in policy.named_parameters() if p.requires_grad} == set(
        models.policy_weights(policy)
    )


def test_score_ignores_padding_and_batches():
    _, reward = loaded()
    for name, p in reward.own().items():
        torch.manual_seed(len(name))
        torch.nn.init.normal_(p, std=0.3)
    prompts, completions = ["w1 w2 w3 cat", "w9"], [" good", " bad b c"]
    both = RewardScorer(reward, build_tokenizer(), 2, 32)(prompts, completions)
    each = RewardScorer(reward, build_tokenizer(), 1, 32)(prompts, completions)
    assert both == pytest.approx(each, abs=1e-5) and abs(both[0] - both[1]) > 1e-3
    ids = torch.tensor([[5, 6, 7]])
    mask = torch.tensor([[0, 0, 1, 1, 1]])
    with torch.no_grad():
        plain = reward(ids).logits
        torch.testing.assert_close(reward(torch.tensor([[0, 0, 5, 6, 7]]), mask).logits, plain)
        right = reward(torch.tensor([[5, 6, 7, 0, 0]]), mask.flip(1)).logits
    torch.testing.assert_close(right, plain)


@pytest.mark.parametrize("reference", ["base", "previous"])
def test_the_reference_is_the_base_or_the_former_adapter(reference, tmp_path):
    seen = []

    class Look(TrainerCallback):
        def on_step_end(self, args, state, control, model=None, **kwargs):
            if args.output_dir.endswith("policy"):
                seen.append("ref" in model.peft_config)

    out = run(tmp_path / "run", reference=reference, call={"callbacks": [Look()]}, iterations=1)
    assert seen == [reference == "previous"] * 2
    assert set(out.policy.peft_config) == {POLICY, REWARD}
    assert "forward" not in vars(out.policy.get_base_model())  # TRL's own is off again


def test_a_bf16_base_has_fp32_adapters_and_head(tmp_path):
    out = run(tmp_path / "run", model=build_model().to(torch.bfloat16))
    kinds = {p.dtype for n, p in out.policy.named_parameters() if "lora" in n}
    assert kinds == {torch.float32} and out.reward.score.weight.dtype == torch.float32
    base = {p.dtype for n, p in out.policy.named_parameters() if "lora" not in n}
    assert base == {torch.bfloat16} and out.phases[-1] == "1.updates"


def test_adapters_of_differing_rank_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"is \(2, 16\) in the policy's adapter and \(3, 16\) in"):
        run(tmp_path / "run", reward_lora_r=3)
    out = run(tmp_path / "spsa", reward_lora_r=3, method="spsa", iterations=1)
    assert out.reward is not None  # without targets nothing needs to match
    with pytest.raises(ValueError, match="the policy's adapter has 'b' and the reward's has not"):
        match_updates({"a": torch.ones(1), "b": torch.ones(1)}, {"a": torch.ones(1)})
    with pytest.raises(ValueError, match="the reward's adapter has 'b'"):
        match_updates({"a": torch.ones(1)}, {"a": torch.ones(1), "b": torch.ones(1)})


def test_blended_reward_lies_between(tmp_path):
    run(tmp_path / "plain", iterations=1)
    run(tmp_path / "blend", iterations=1, blend=0.25)
    names = ("reward", "0.refine")
    before, refined = (
        load_file(tmp_path / "plain/phases" / n / "reward.safetensors") for n in names
    )
    again, mixed = (load_file(tmp_path / "blend/phases" / n / "reward.safetensors") for n in names)
    assert same(before, again)
    for name in before:
        wanted = 0.75 * refined[name] + 0.25 * before[name]
        torch.testing.assert_close(mixed[name], wanted, rtol=1e-5, atol=1e-7)
    assert not same(mixed, refined)


def test_merged_adapter_computes_the_same():
    policy, _ = loaded()
    fresh = models.snapshot(models.policy_weights(policy))
    for name, p in models.policy_weights(policy).items():
        torch.manual_seed(len(name))
        torch.nn.init.normal_(p, std=0.1)
    ids = torch.arange(4, 12)[None]
    with torch.no_grad():
        before = policy(ids).logits
        models.merge(policy, fresh)
        torch.testing.assert_close(policy(ids).logits, before, rtol=1e-4, atol=1e-5)
        with policy.disable_adapter():
            torch.testing.assert_close(policy(ids).logits, before, rtol=1e-4, atol=1e-5)
    assert same(models.snapshot(models.policy_weights(policy)), fresh)


def test_pad_token_is_another_than_the_end():
    tokenizer = build_tokenizer()
    tokenizer.pad_token = None
    models.prepare_tokenizer(tokenizer)
    assert tokenizer.pad_token == "[PAD]"
    tokenizer.pad_token = tokenizer.eos_token
    models.prepare_tokenizer(tokenizer)
    assert tokenizer.pad_token == "[PAD]"
    tokenizer.pad_token = "cat"  # a user's choice stays
    models.prepare_tokenizer(tokenizer)
    assert tokenizer.pad_token == "cat"
    tokenizer.eos_token = None
    with pytest.raises(ValueError, match="no end-of-sequence token"):
        models.prepare_tokenizer(tokenizer)


def test_no_pad_token_to_be_had(monkeypatch):
    monkeypatch.setattr(models, "PADS", ())
    tokenizer = build_tokenizer()
    tokenizer.pad_token, tokenizer.unk_token = None, "[EOS]"
    with pytest.raises(ValueError, match=r"no pad token other than its end of sequence '\[EOS\]'"):
        models.prepare_tokenizer(tokenizer)
