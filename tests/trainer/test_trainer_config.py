"""ZerothOrderArguments and ZOPrOConfig: defaults, validation, notices and refusals."""

import dataclasses
import inspect
import warnings

import pytest
from transformers import HfArgumentParser, TrainingArguments
from trl import RLOOConfig, SFTConfig

from zopro import ZOPrO, ZOPrOConfig
from zopro.trainer import ZerothOrderArguments


@dataclasses.dataclass
class ZOSFTConfig(ZerothOrderArguments, SFTConfig):
    pass


@dataclasses.dataclass
class ZOArguments(ZerothOrderArguments, TrainingArguments):
    pass


@pytest.mark.parametrize("cls", [ZOPrOConfig, ZOSFTConfig, ZOArguments])
def test_defaults_are_silent(cls, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        warnings.simplefilter("error", FutureWarning)
        args = cls(str(tmp_path))
    assert not args.max_grad_norm and not args.gradient_checkpointing and not args.bf16


def test_own_fields_begin_with_zo_and_reach_the_optimizer(tmp_path):
    theirs = {f.name for f in dataclasses.fields(RLOOConfig)}
    ours = {f.name for f in dataclasses.fields(ZOPrOConfig)} - theirs
    assert ours and all(name.startswith("zo_") for name in ours)

    args = ZOPrOConfig(str(tmp_path), seed=7, zo_eps="auto", learning_rate=0.5)
    arguments = args.zero_order_arguments()
    assert set(arguments) <= set(inspect.signature(ZOPrO.__init__).parameters)
    assert (arguments["seed"], arguments["eps"], arguments["lr"]) == (7, "auto", 0.5)
    assert ZOPrOConfig(str(tmp_path), seed=7, zo_seed=9).zero_order_arguments()["seed"] == 9


def test_trl_names_keep_their_meaning(tmp_path):
    args = ZOPrOConfig(str(tmp_path))
    reference = RLOOConfig(str(tmp_path), bf16=False)
    for name in ("epsilon", "beta", "num_generations", "temperature", "steps_per_generation"):
        assert getattr(args, name) == getattr(reference, name)


def test_command_line(tmp_path):
    line = ["--output_dir", str(tmp_path), "--zo_eps", "0.01", "--zo_num_directions", "4"]
    (args,) = HfArgumentParser(ZOPrOConfig).parse_args_into_dataclasses(line)
    assert (args.zo_eps, args.zo_num_directions, args.zo_seed) == (0.01, 4, None)
    line[3] = "auto"
    (args,) = HfArgumentParser(ZOPrOConfig).parse_args_into_dataclasses(line)
    assert args.zo_eps == "auto"


@pytest.mark.parametrize(
    "name, value",
    [
        ("zo_eps", -1.0),
        ("zo_eps", 0),
        ("zo_eps", float("inf")),
        ("zo_eps", "tiny"),
        ("zo_eps", None),
        ("zo_distribution", "uniform"),
        ("zo_num_directions", 0),
        ("zo_num_directions", 1.5),
        ("zo_estimator", "three_sided"),
        ("zo_schedule", "sometimes"),
        ("zo_rounding", "up"),
        ("zo_restore", "never"),
        ("zo_seed", -1),
        ("zo_seed", 2**64),
        ("zo_seed", 0.5),
        ("zo_backend", "abacus"),
    ],
)
def test_bad_value_is_named(name, value, tmp_path):
    with pytest.raises((ValueError, TypeError), match=name) as caught:
        ZOPrOConfig(str(tmp_path), **{name: value})
    assert len(str(caught.value).splitlines()) == 1


def test_a_parents_default_is_switched_off_with_one_notice(tmp_path):
    with pytest.warns(UserWarning, match="max_grad_norm") as caught:
        args = ZOArguments(str(tmp_path), max_grad_norm=1.0)
    assert args.max_grad_norm == 0.0
    ours = [w for w in caught if "switched off" in str(w.message)]
    assert len(ours) == 1 and ours[0].filename == __file__


@pytest.mark.parametrize(
    "cls, name",
    [(ZOArguments, "gradient_checkpointing"), (ZOSFTConfig, "activation_offloading")],
)
def test_another_value_than_the_parents_default_is_refused(cls, name, tmp_path):
    with pytest.raises(ValueError, match=f"^{name}=True is refused: .*; leave `{name}` out"):
        cls(str(tmp_path), **{name: True})
    assert not getattr(cls(str(tmp_path), **{name: False}), name)


def test_loss_whose_gradient_is_not_its_slope_is_refused(tmp_path):
    with pytest.raises(ValueError, match="loss_type='dft' is refused"):
        ZOSFTConfig(str(tmp_path), loss_type="dft")


@pytest.mark.parametrize(
    "name, value",
    [
        ("fp16", True),
        ("optim", "adafactor"),
        ("optim", "sgd"),
        ("optim_args", "a=1"),
        ("optim_target_modules", "all"),
        ("fsdp", "full_shard"),
        ("deepspeed", {"zero_optimization": {"stage": 3}}),
    ],
)
def test_what_has_no_counterpart_is_refused(name, value, tmp_path):
    with pytest.raises(ValueError, match=f"^{name}=.* is refused: .*"):
        ZOPrOConfig(str(tmp_path), **{name: value})
