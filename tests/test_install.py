"""`pip install .` with and without nvcc, and without a compiler; what is installed then serves."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

import zopro_kernels as zk

ROOT = Path(__file__).resolve().parents[1]
SOURCES = ("csrc", "zopro", "zopro_kernels", "pyproject.toml", "setup.py", "CMakeLists.txt",
           "MANIFEST.in", "README.md", "LICENSE", "NOTICE")  # fmt: skip
ABSENT = "/nonexistent/bin/"  # CMake takes these variables at their word and looks nowhere else
NO_NVCC = {"CUDACXX": ABSENT + "nvcc"}
NO_COMPILER = {"CC": ABSENT + "cc", "CXX": ABSENT + "c++"}

# What a user of the installed package sees, as JSON.
# An editable installation's finder would lend its own native modules to what has none.
QUESTION = """
import sys
sys.meta_path = [f for f in sys.meta_path if "__editable__" not in getattr(f, "__module__", "")]
import json, warnings
import torch, zopro, zopro_kernels as zk
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    x = torch.linspace(-1, 1, 5000)
    zk.add_noise_([x], [3], [0.5], distribution="gaussian")
y = torch.linspace(-1, 1, 5000)
zk.add_noise_([y], [3], [0.5], distribution="gaussian", backend="reference")
print(json.dumps({
    "file": zk.__file__, "zopro": zopro.__file__, "backends": zk.backends(),
    "serves": zk.default_backend("cpu"), "equal": torch.equal(x, y),
    "warnings": [str(w.message) for w in caught],
}))
"""


@pytest.fixture(scope="module")
def tree(tmp_path_factory) -> Path:
    """The sources that a build reads, without anything built."""
    copy = tmp_path_factory.mktemp("tree")
    built = shutil.ignore_patterns("*.so", "__pycache__", "build", "*.egg-info")
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, copy / name, ignore=built)
        else:
            shutil.copy2(ROOT / name, copy / name)
    return copy


def search_path() -> str:
    """The PATH with this environment's own scripts first, as where it is activated."""
    return sysconfig.get_path("scripts") + os.pathsep + os.environ.get("PATH", "")


def pip_install(tree: Path, target: Path, **environment: str) -> subprocess.CompletedProcess:
    """Runs `pip install` of the tree into an empty folder."""
    pytest.importorskip("pip", reason="this environment has no pip to install with")
    own = {k: v for k, v in os.environ.items() if not k.startswith(("ZOPRO_", "CUDA"))}
    own |= {"PATH": search_path(), **environment}
    command = [sys.executable, "-m", "pip", "install", ".", "--no-deps", "--target", str(target)]
    # What the build needs is in the dev extra: then no index is asked for it.
    if all(map(importlib.util.find_spec, ("setuptools", "pybind11"))) and all(
        shutil.which(tool, path=own["PATH"]) for tool in ("cmake", "ninja")
    ):
        command.append("--no-build-isolation")
    return subprocess.run(command, cwd=tree, env=own, capture_output=True, text=True, check=False)


def ask(target: Path) -> dict:
    own = {k: v for k, v in os.environ.items() if not k.startswith("ZOPRO_")}
    done = subprocess.run(
        [sys.executable, "-c", QUESTION], cwd=target, env={**own, "PYTHONPATH": str(target)},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    for name in ("file", "zopro"):
        assert Path(found[name]).is_relative_to(target), "another installation was imported"
    assert found["equal"], "the default backend's bits differ from the reference's"
    return found


def modules(folder: Path) -> list[str]:
    return sorted(path.name.partition(".")[0] for path in folder.glob("_c*.so"))


@pytest.mark.skipif(shutil.which("c++") is None, reason="no C++ compiler on the PATH")
def test_auto_without_nvcc_builds_the_cpu_module(tree, tmp_path):
    done = pip_install(tree, tmp_path, **NO_NVCC)
    assert done.returncode == 0, done.stdout + done.stderr
    assert modules(tmp_path / "zopro_kernels") == ["_cpu"]
    found = ask(tmp_path)
    assert found["backends"]["cpu"] == "available"
    assert found["backends"]["cuda"].startswith("not built: the CUDA module needs nvcc")
    assert found["serves"] == "cpu"
    assert not found["warnings"]


def test_auto_finds_nvcc_in_cuda_home(tree, tmp_path):
    """The CUDA module is among the targets although nvcc is not on the PATH."""
    if (nvcc := nvcc_found()) is None:
        pytest.skip("no nvcc")
    pybind11 = pytest.importorskip("pybind11", reason="pybind11 is not in this environment")
    home, tools = tmp_path / "home", tmp_path / "tools"
    for name in ("c++", "cc", "g++", "gcc", "as", "ld", "ar", "ranlib", "cmake", "ninja"):
        if (found := shutil.which(name, path=search_path())) is None:
            pytest.skip(f"no {name} on the PATH")
        tools.mkdir(exist_ok=True)
        (tools / name).symlink_to(found)
    (home / "bin").mkdir(parents=True)
    (home / "bin/nvcc").write_text(f'#!/bin/sh\nexec {nvcc} "$@"\n')
    (home / "bin/nvcc").chmod(0o755)
    own = {k: v for k, v in os.environ.items() if not k.startswith(("ZOPRO_", "CUDA"))}
    done = subprocess.run(
        [
            str(tools / "cmake"), "-S", str(tree), "-B", str(tmp_path / "build"), "-G", "Ninja",
            "-DCMAKE_FIND_USE_CMAKE_SYSTEM_PATH=OFF", f"-DPython_EXECUTABLE={sys.executable}",
            f"-Dpybind11_DIR={pybind11.get_cmake_dir()}",
        ],
        env={**own, "PATH": str(tools), "CUDA_HOME": str(home)},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"Looking for a CUDA compiler - {home}/bin/nvcc" in done.stdout
    assert "build _cuda: phony" in (tmp_path / "build/build.ninja").read_text()


@pytest.mark.parametrize("lacking", (NO_NVCC, NO_COMPILER), ids=("no nvcc", "no compiler"))
def test_on_fails_with_one_sentence(tree, tmp_path, lacking):
    done = pip_install(tree, tmp_path, ZOPRO_CUDA="ON", **lacking)
    said = done.stdout + done.stderr
    assert done.returncode != 0, said
    sentence = (
        "zopro: ZOPRO_CUDA=ON, but the build failed (see above): install nvcc and a C++ compiler, "
        "or use ZOPRO_CUDA=AUTO, which does without CUDA"
    )
    assert sentence in said
    assert "Traceback" not in said
    if lacking is NO_NVCC and shutil.which("c++"):
        assert "ZOPRO_CUDA=ON, but no nvcc was found" in said
    assert not (tmp_path / "zopro_kernels").exists()


def test_an_unknown_choice_fails_with_one_sentence(tree, tmp_path):
    done = pip_install(tree, tmp_path, ZOPRO_CUDA="yes")
    assert done.returncode != 0
    assert "ZOPRO_CUDA='YES' is not known: use AUTO, ON or OFF" in done.stdout + done.stderr


def test_without_a_compiler_the_reference_serves(tree, tmp_path):
    done = pip_install(tree, tmp_path, **NO_COMPILER)
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    assert "zopro installs without native kernels" in said and "is there a compiler?" in said
    assert modules(tmp_path / "zopro_kernels") == []
    found = ask(tmp_path)
    assert found["backends"]["reference"] == "available"
    assert found["backends"]["cpu"].startswith("not built: the C++ module needs a compiler")
    assert found["serves"] == "reference"
    (warning,) = found["warnings"]
    assert "uses the much slower PyTorch reference" in warning and "zopro doctor" in warning


def nvcc_found() -> Path | None:
    """The compiler that CMakeLists.txt would take."""
    if asked := os.environ.get("CUDACXX"):
        return Path(asked) if Path(asked).exists() else None
    homes = [os.environ[name] for name in ("CUDA_PATH", "CUDA_HOME") if os.environ.get(name)]
    places = [os.environ.get("PATH", ""), "/usr/local/bin", "/usr/bin"]
    places += [f"{home}/bin" for home in (*homes, "/usr/local/cuda")]
    found = shutil.which("nvcc", path=os.pathsep.join(places))
    return Path(found) if found else None


def test_this_environment_has_the_cuda_module_exactly_when_nvcc_was_there():
    folder = Path(zk.__file__).parent
    built = "_cuda" in modules(folder)
    state = zk.backends()["cuda"]
    assert state.startswith("not built") != built, state
    assert "import" not in state and "law" not in state, state
    # Where pip built the modules (its file names say for which Python), it looked for nvcc.
    by_pip = list(folder.glob("_cpu" + sysconfig.get_config_var("EXT_SUFFIX")))
    if not by_pip:
        return
    nvcc = nvcc_found() if os.environ.get("ZOPRO_CUDA", "AUTO").upper() != "OFF" else None
    newer = nvcc is not None and nvcc.stat().st_ctime > by_pip[0].stat().st_mtime
    if not newer:
        assert built == (nvcc is not None), (
            f"nvcc is {nvcc}, but the CUDA module is {'' if built else 'not '}built: "
            "build the environment again (make clean env)"
        )
