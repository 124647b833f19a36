"""The tree shows the architecture, and this holds it: imports downward, files short."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import zopro_kernels

ROOT = Path(__file__).parents[1]
PYTHON = sorted(
    p
    for folder in ("zopro", "zopro_kernels", "benchmarks", "tests", "tools", "examples")
    for p in (ROOT / folder).rglob("*.py")
)
NATIVE = sorted((ROOT / "csrc").rglob("*.*"))
SHIPPED = [p for p in PYTHON if p.parts[len(ROOT.parts)] in ("zopro", "zopro_kernels")]


# Folders of zopro that are no part of the optimizer; the iterations are the trainer's layer.
LAYERS = {"trainer": "trainer", "iterations": "trainer", "tasks": "tasks", "analysis": "analysis",
          "report": "report"}  # fmt: skip


def layer(path: Path) -> str:
    parts = path.relative_to(ROOT).parts
    if parts[0] == "zopro_kernels":
        return "kernels"
    if parts[1] in ("cli.py", "cli"):
        return "cli"
    return LAYERS.get(parts[1], "optimizer")


# What each layer may import of ours; "zk" stands for zopro_kernels' public names, "protocol" for
# the tasks' protocol, the only thing of theirs that the trainer's layer knows.
BELOW = {
    "kernels": {"kernels"},
    "optimizer": {"optimizer", "zk"},
    "tasks": {"tasks", "protocol"},
    "trainer": {"trainer", "analysis", "optimizer", "zk", "protocol"},
    "analysis": {"analysis", "optimizer", "zk"},
    "report": {"report", "analysis", "optimizer", "zk"},
    "cli": {"cli", "trainer", "tasks", "protocol", "analysis", "report", "optimizer", "zk"},
}
# Packages from outside that a layer may not know.
FOREIGN = {
    "kernels": {"transformers", "trl", "peft", "datasets", "accelerate"},
    "optimizer": {"transformers", "trl", "peft", "datasets", "accelerate", "triton"},
    "tasks": {"trl", "peft", "accelerate", "triton"},
}


def imports(path: Path) -> list[tuple[str, str]]:
    """(module, name) of every import, relative ones made absolute; name is "" for `import x`."""
    package = list(path.relative_to(ROOT).with_suffix("").parts[:-1])
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found += [(alias.name, "") for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            found += [(module, alias.name) for alias in node.names]
    return found


def target_layer(module: str, name: str) -> str | None:
    parts = module.split(".")
    if parts[0] == "zopro_kernels":
        public = module == "zopro_kernels" and name in ("", *zopro_kernels.__all__)
        return "zk" if public else "kernels"
    if parts[0] != "zopro":
        return None
    if module == "zopro.tasks.protocol":
        return "protocol"
    deeper = parts[1] if len(parts) > 1 else name
    return "cli" if deeper == "cli" else LAYERS.get(deeper, "optimizer")


@pytest.mark.parametrize("path", SHIPPED, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_point_downward(path):
    own = layer(path)
    for module, name in imports(path):
        target = target_layer(module, name)
        if own == "kernels" and target == "zk":
            continue
        assert target is None or target in BELOW[own], f"{own} imports {module} {name}"
        assert module.split(".")[0] not in FOREIGN.get(own, ()), f"{own} imports {module}"


def test_the_rule_can_fail():
    assert target_layer("zopro_kernels.reference", "add_noise_") not in BELOW["optimizer"]
    assert target_layer("zopro", "trainer") not in BELOW["tasks"]
    assert target_layer("zopro.tasks.debian", "") not in BELOW["trainer"]
    assert target_layer("zopro.tasks", "get_task") not in BELOW["trainer"]
    assert target_layer("zopro.iterations", "iterate") not in BELOW["optimizer"]


@pytest.mark.parametrize("path", NATIVE, ids=lambda p: p.name)
def test_native_sources_need_no_torch(path):
    for included in re.findall(r'#include [<"]([^>"]+)[>"]', path.read_text()):
        folder = path.relative_to(ROOT / "csrc").parts[0]
        assert not re.match(r"torch|ATen|c10", included)
        if included.startswith("pybind11"):
            assert folder == "bindings"
        if folder == "include":
            assert re.fullmatch(r"[a-z_]+|zopro/[a-z_]+\.(h|inc)", included), included


def test_files_are_short():
    long = {p.name: n for p in [*PYTHON, *NATIVE] if (n := len(p.read_text().splitlines())) > 250}
    assert not long


@pytest.mark.parametrize("path", SHIPPED, ids=lambda p: str(p.relative_to(ROOT)))
def test_public_functions_are_documented(path):
    tree = ast.parse(path.read_text())
    assert ast.get_docstring(tree), "the module says nothing of itself"
    if path.parent.name == "zopro_kernels" and path.name.startswith("triton_"):
        return  # device functions are documented where they do more than their name says
    for node in tree.body:
        public = isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name[0] != "_"
        if public and len(node.body) > 3:
            assert ast.get_docstring(node), f"{node.name} has no docstring"


def test_the_repository_speaks_of_the_project_alone():
    listed = subprocess.run(
        ["git", "-C", ROOT, "ls-files", "-z"], capture_output=True, text=True, check=False
    )
    if listed.returncode:
        pytest.skip("not a git checkout")
    for name in filter(None, listed.stdout.split("\0")):
        path = ROOT / name
        if not path.is_file() or path.suffix in (".safetensors", ".png") or path == Path(__file__):
            continue
        text = path.read_text(errors="ignore")
        found = re.search(
            r"/(?:home|root|work|tmp/[a-z]+)/[\w./-]+|deb\.debian\.org|files\.pytho", text
        )
        assert not found, f"{name} holds {found.group()!r}"


def test_readme_holds_the_results():
    done = subprocess.run(
        [sys.executable, ROOT / "benchmarks/tables.py", "--check"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
