"""No code from a model's folder or a config runs; what a config holds is told in one line."""

import ast
import json
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from zopro.cli import main
from zopro.cli.errors import CommandError
from zopro.cli.options import given as given_options
from zopro.cli.train import OPTIONS, parser, routed
from zopro.iterations import IterationConfig

ROOT = Path(__file__).parents[2]
SOURCES = sorted(p for f in ("zopro", "zopro_kernels") for p in (ROOT / f).rglob("*.py"))
CALLS = {"eval", "exec", "compile", "torch.load", "torch.save", "yaml.load", "__import__"}
FORBIDDEN = {"pickle", "marshal", "shelve", "dill", "cloudpickle", "joblib"}


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_no_eval_no_pickle_no_remote_code(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = {a.name for a in node.names} | {getattr(node, "module", None)}
            assert not FORBIDDEN & names, names
        if not isinstance(node, ast.Call):
            continue
        called = ast.unparse(node.func)
        assert called not in CALLS or "BaseLoader" in ast.unparse(node), called
        remote = [k.value for k in node.keywords if k.arg == "trust_remote_code"]
        assert all(isinstance(v, ast.Constant) and v.value is False for v in remote), called
        owner, _, method = called.rpartition(".")
        if method == "from_pretrained" and owner != "PeftModel":  # which has no code to trust
            assert remote, f"{called} without trust_remote_code=False"
            safe = [k.value for k in node.keywords if k.arg == "use_safetensors"]
            pickled = "Model" in owner and not any(ast.unparse(v) == "True" for v in safe)
            assert not pickled, f"{called} without use_safetensors=True"


def test_pickled_weights_are_refused_and_not_opened(model, rows, tmp_path, capsys):
    folder, adapter, sign = tmp_path / "model", tmp_path / "adapter", tmp_path / "ran"

    class Opened:
        def __reduce__(self):
            return (open, (str(sign), "w"))

    shutil.copytree(model, folder)
    (folder / "model.safetensors").unlink()
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text("{}")
    for path in (folder / "pytorch_model.bin", adapter / "adapter_model.bin"):
        torch.save(Opened(), path)
    command = ["eval", "--task", "translation", "--source", rows, "--limit", "2", "--split",
               "train", "--model"]  # fmt: skip
    assert main([*command, str(folder)]) == 2
    error = capsys.readouterr().err
    assert "zopro: error: " in error and "safetensors" in error
    assert main([*command, model, "--adapter", str(adapter)]) == 2
    assert "holds no adapter_model.safetensors" in capsys.readouterr().err
    assert not sign.exists()


def test_a_model_with_code_is_refused_and_its_code_does_not_run(model, train, tmp_path, capsys):
    folder, sign = tmp_path / "model", tmp_path / "ran"
    shutil.copytree(model, folder)
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "own", "auto_map": {"AutoConfig": "own.Own",
                                                 "AutoModelForCausalLM": "own.Own"}}  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "own.py").write_text(f"open({str(sign)!r}, 'w').close()\n")
    assert main([*train(tmp_path / "run"), "--model", str(folder)]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"zopro: error: model={str(folder)!r} cannot be loaded: ")
    assert error.count("\n") == 1 and not sign.exists() and not (tmp_path / "run").exists()


NAMES = [*IterationConfig.__dataclass_fields__, "zo_eps", "zo_backend", "max_steps", "task",
         "learning_rate", "no_such", "reward.learning_rate", "config", "help"]  # fmt: skip
scalars = (st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6)
           | st.sampled_from(["zopro", "../..",
                              "--limit", "none", "1e-3", "!!python/x:y"]))  # fmt: skip
values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from([*NAMES, "x"]) | st.text(max_size=4), inner, max_size=3)
    ),
    max_leaves=6,
)
PARSER = parser()


@settings(max_examples=300, deadline=None)
@given(st.dictionaries(st.sampled_from(NAMES), values, max_size=4)
       | st.dictionaries(scalars, values, max_size=3) | values)  # fmt: skip
def test_any_mapping_is_a_configuration_or_one_sentence(tmp_path_factory, mapping):
    read(tmp_path_factory, yaml.safe_dump(mapping, allow_unicode=True).encode())


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=80) | st.text(max_size=80).map(lambda x: x.encode("utf-8", "replace"))
       | st.text("{}[]:-&*!|>'\"%@ \n\tab01#,?", max_size=60).map(str.encode))  # fmt: skip
def test_any_file_is_a_configuration_or_one_sentence(tmp_path_factory, data):
    read(tmp_path_factory, data)


def read(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("config") / "c.yaml"
    path.write_bytes(data)
    try:
        options = given_options(PARSER, ["--config", str(path)], OPTIONS)
        assert isinstance(options, dict)
        options = {n: v for n, v in routed(options).items() if n in NAMES}
        assert isinstance(IterationConfig.from_dict({"output_dir": "x", **options}).to_dict(), dict)
    except (CommandError, ValueError, TypeError) as error:
        assert str(error).strip() and "Traceback" not in str(error)
        if not isinstance(error, CommandError):
            # What Python's own conversions say names no option.
            assert any(n in str(error) for n in NAMES), (type(error), str(error))
