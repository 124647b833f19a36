"""Bad input: one sentence on stderr and exit code 2, nothing else; YAML files and flags."""

import pytest
import yaml

from zopro.cli import main
from zopro.cli.options import given
from zopro.cli.train import OPTIONS, parser, routed


def refused(argv, capsys):
    assert main(argv) == 2
    out = capsys.readouterr()
    assert out.err.startswith("zopro: error: ") and out.err.count("\n") == 1, out.err
    return out.err.removeprefix("zopro: error: ").rstrip()


@pytest.mark.parametrize("command", ["train", "sft", "reward", "eval"])
def test_tasks_and_models_that_are_not_there(command, model, tmp_path, capsys):
    sentence = refused([command, "--model", model], capsys)
    assert sentence.startswith("task is missing: give --task, one of summarisation, ")
    sentence = refused([command, "--task", "cooking", "--model", model], capsys)
    assert sentence.startswith("task is 'cooking'; choose one of summarisation, ")
    task = [command, "--task", "translation"]
    assert refused(task, capsys).startswith("model is missing: give --model")
    sentence = refused([*task, "--model", "./nowhere"], capsys)
    assert sentence == ("model='./nowhere' is no folder: name a model's folder or one on the hub")
    sentence = refused([*task, "--model", "nobody/nothing"], capsys)
    assert sentence.startswith("model='nobody/nothing' cannot be loaded: ")
    sentence = refused([*task, "--model", str(tmp_path)], capsys)
    assert "is a folder without config.json" in sentence
    assert not list(tmp_path.iterdir())


BAD = [
    (["--method", "adam"], "method='adam' is not known: use one of 'zopro', 'spsa', 'rloo'"),
    (["--iterations", "few"], "argument --iterations: invalid int value: 'few'"),
    (["--iterations", "0"], "iterations=0 is out of range"),
    (["--zo_esp", "1"], "option --zo_esp is not known: did you mean --zo_eps?"),
    (["--zo_seed", "1"], "zeroth holds 'zo_seed', which the driver sets"),
    (["--reward.learning_rte", "1"], "option --reward.learning_rte is not known: did you mean "),
    (["--reward.learning_rate", "x"], "argument --learning_rate/--learning-rate: invalid float"),
    (["--policy", "[1]"], "argument --policy: '[1]' is no JSON mapping"),
    (["stray"], "'stray' belongs to no option"),
    (["--config", "none.yaml"], "config='none.yaml' cannot be read: No such file"),
    (["--source", "none.jsonl"], "source is 'none.jsonl', and there is no file none.jsonl."),
    (["--rewards", "bleu"], "reward is 'bleu'; for 'translation' choose one of chrf."),
    (["--judge", "http://localhost:1/v1"], "judge_model is missing"),
    (["--judge", "./judge"], "model='./judge' is no folder"),
    (["--max_completion_length", "64"], "max_completion_length=64 leaves no room for a prompt"),
    (["--first", "spsa", "--optim", "sgd"], "optim is refused: with first='spsa' and method='zo"),
    (["--first", "spsa", "--first_order.beta", "0"], "beta is refused: with first='spsa' and"),
    (["--lora_r", "none"], "lora_r=None trains all weights, and a reward model on the same base"),
]


@pytest.mark.parametrize("more,sentence", BAD, ids=lambda x: x[0] if isinstance(x, list) else "")
def test_bad_flags(more, sentence, train, tmp_path, capsys):
    assert refused(train(tmp_path / "run", *more), capsys).startswith(sentence)


def test_bad_values_of_later_phases_are_told_at_once(train, tmp_path, capsys):
    for more, sentence in [
        (["--zo_eps", "-1"], "zeroth: zo_eps=-1.0 is not allowed"),
        (["--zo_population", "0"], "zeroth: zo_population=0 is out of range"),
        (["--policy.num_generations", "3"], "first_order: generation_batch_size (4) must be"),
        (["--supervised.lr_scheduler_type=slow"], "argument --lr_scheduler_type"),
        (["--refine.eval_strategy", "steps"], "eval_strategy='steps' is refused"),
        (["--report_to", "pigeon"], "report_to='pigeon' is not available: install its package"),
    ]:
        assert refused(train(tmp_path / "run", *more), capsys).startswith(sentence)
    assert not (tmp_path / "run").exists()


def test_what_no_phase_reads_is_refused(train, tmp_path, capsys):
    rewards = ["--first", "spsa", "--rewards", "default"]
    sentence = refused(train(tmp_path / "run", *rewards, "--neftune_noise_alpha", "5"), capsys)
    assert sentence.endswith("and no reward model no phase has a backward pass; leave it out")
    argv = train(tmp_path / "run", "--zo_eps", "1", method="rloo")
    assert refused(argv, capsys).endswith("no phase of the policy is zeroth-order; leave it out")
    assert not (tmp_path / "run").exists()


def test_debug_raises(train, tmp_path):
    with pytest.raises(ValueError, match="is not known"):
        main([*train(tmp_path / "run", "--method", "adam"), "--debug"])


def test_eval_flags(model, capsys, rows):
    command = ["eval", "--task", "translation", "--model", model, "--source", rows]
    for more, sentence in [
        (["--limit", "0"], "limit=0 is not allowed: give at least 1"),
        (["--temperature", "-1"], "temperature=-1.0 is not allowed"),
        (["--dtype", "int8"], "dtype='int8' is not known"),
        (["--split", "all"], "split is 'all'"),
        (["--adapter", model], f"adapter={model!r} holds no adapter_config.json"),
        (["--limt", "1"], "unrecognized arguments: --limt 1 (`zopro eval --help`"),
    ]:
        assert refused([*command, *more], capsys).startswith(sentence)
    assert refused(["data", "cooking"], capsys).startswith("task is 'cooking'")
    assert "source is 'moon'" in refused(["data", "translation", "--source", "moon"], capsys)


def read(tmp_path, options, *flags):
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(options))
    return given(parser(), ["--config", str(tmp_path / "run.yaml"), *flags], OPTIONS)


def test_flags_win_over_the_file(tmp_path):
    options = {"task": "dialogue", "iterations": 3, "lora_r": None, "zo_eps": "auto",
               "resume": False, "reward": {"learning_rate": "1e-4", "num_train_epochs": 2},
               "target_modules": ["q_proj", "v_proj"], "supervised": {}}  # fmt: skip
    found = read(tmp_path, options, "--iterations=4", "--reward.num_train_epochs", "5")
    assert found == {
        "task": "dialogue", "iterations": 4, "lora_r": None, "zo_eps": "auto", "resume": False,
        "reward": {"learning_rate": 1e-4, "num_train_epochs": 5.0},
        "target_modules": ["q_proj", "v_proj"], "supervised": {},
    }  # fmt: skip


def test_bad_files(tmp_path, capsys):
    for text, sentence in [
        ("- 1\n", "holds no mapping of options"),
        ("a: [\n", "is no YAML"),
        ("iteratons: 3\n", "option --iteratons is not known: did you mean --iterations?"),
        ("iterations: many\n", "argument --iterations: invalid int value: 'many'"),
        ("policy: 3\n", "argument --policy: '3' is no JSON mapping"),
    ]:
        (tmp_path / "bad.yaml").write_text(text)
        assert sentence in refused(["train", "--config", str(tmp_path / "bad.yaml")], capsys)
    assert refused(["train", "--config"], capsys) == "--config needs a YAML file"


def test_where_a_field_goes():
    values = {"zo_eps": 1e-2, "learning_rate": 1e-3, "max_steps": 5, "num_generations": 4,
              "seed": 3, "zo_schedule": "cosine", "max_grad_norm": 1.0,
              "policy": {"num_generations": 8}}  # fmt: skip
    assert routed(values) == {
        "seed": 3, "schedule": "cosine", "trainer": {"max_steps": 5},
        "zeroth": {"zo_eps": 1e-2, "learning_rate": 1e-3}, "policy": {"num_generations": 8},
        "first_order": {"max_grad_norm": 1.0},
    }  # fmt: skip
    first = routed({"method": "rloo", "learning_rate": 1e-3})
    assert first == {"method": "rloo", "first_order": {"learning_rate": 1e-3}}


def test_every_field_of_both_configurations_is_a_flag():
    import dataclasses

    from zopro import IterationConfig, ZOPrOConfig

    flags = {s for a in parser()._actions for s in a.option_strings}
    for cls in (IterationConfig, ZOPrOConfig):
        assert not [
            f.name for f in dataclasses.fields(cls) if f.init and f"--{f.name}" not in flags
        ]
