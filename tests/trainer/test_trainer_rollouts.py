"""ZOPrOTrainer's rollouts: prompts, sampling, batches kept for several steps, resumption."""

import pytest
from trainer.tiny_llama import build_model, build_tokenizer, moved, prompts, reward_digits, snapshot
from trainer.tiny_trainer import arguments, logged
from trainer.tiny_trl import GENERATE, build

from zopro import ZOPrOConfig, ZOPrOTrainer


def test_conversational_prompts(tmp_path):
    data = prompts().map(lambda row: {"prompt": [{"role": "user", "content": row["prompt"]}]})

    def reward(prompts, completions, number, **columns):
        assert len(prompts) == len(completions) == len(number)
        return [float(len(c[0]["content"])) for c in completions]

    ours = ZOPrOTrainer(
        model=build_model(),
        reward_funcs=[reward],
        args=arguments(tmp_path, ZOPrOConfig, max_steps=2, **GENERATE),
        train_dataset=data,
        processing_class=build_tokenizer(),
    )
    ours.train()
    assert logged(ours, "rewards/reward/mean") and logged(ours, "reward")


def test_evaluation_of_rloo_keeps_its_prefix(tmp_path):
    t = ZOPrOTrainer(
        model=build_model(),
        reward_funcs=reward_digits,
        args=arguments(
            tmp_path, ZOPrOConfig, max_steps=2, eval_strategy="steps", eval_steps=1, **GENERATE
        ),
        train_dataset=prompts(),
        eval_dataset=prompts(8),
        processing_class=build_tokenizer(),
    )
    t.train()
    assert len(logged(t, "eval_reward")) == len(logged(t, "reward")) == 2


def test_sampling_does_not_depend_on_the_perturbation(tmp_path):
    """Seeding the noise must not reseed the generator that draws the responses (defect 7)."""
    responses = []
    for seed in (1, 2):
        t = build("rloo", tmp_path, zo_seed=seed, learning_rate=0.0)
        seen = []
        reward = t.reward_funcs[0]

        def keep(completions, reward=reward, seen=seen, **columns):
            seen.append(completions)
            return reward(completions=completions, **columns)

        t.reward_funcs[0] = keep
        t.train()
        responses.append(seen)
    assert responses[0] == responses[1]
    assert len({tuple(r) for r in responses[0]}) == 4


@pytest.mark.parametrize("kept", [1, 2])
def test_rollouts_kept_for_several_steps_get_fresh_directions(kept, tmp_path):
    t = build("rloo", tmp_path, num_iterations=kept, zo_num_directions=3, max_steps=4, zo_eps=1e-2)
    batches, seeds = [], set()
    reward = t.reward_funcs[0]
    t.reward_funcs[0] = lambda **k: batches.append(None) or reward(**k)
    t.reward_funcs[0].__name__ = "reward_digits"
    parent = t.compute_loss

    def compute_loss(*args, **kwargs):
        loss = parent(*args, **kwargs)
        seeds.add(t.zopro.step_count)
        return loss

    t.compute_loss = compute_loss
    t.train()
    assert len(batches) == 4 // kept and len(seeds) == 4
    assert len(t.zopro.last.projected_gradients) == 3


def test_resumed_rloo_ends_at_the_same_bits(tmp_path):
    options = {"max_steps": 4, "save_strategy": "steps", "save_steps": 2}
    whole = build("rloo", tmp_path / "a", **options)
    whole.train()
    rest = build("rloo", tmp_path / "b", model=build_model(seed=3), **options)
    rest.train(resume_from_checkpoint=str(tmp_path / "a" / "checkpoint-2"))
    assert rest.state.global_step == 4 and not moved(snapshot(whole.model), rest.model)
    files = [p.name for p in (tmp_path / "a").rglob("*")]
    assert files and not [n for n in files if n.endswith((".pt", ".pth", ".bin", ".pkl"))]
