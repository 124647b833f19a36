"""`zopro doctor`: what works on this machine, what is missing and why."""

from __future__ import annotations

import importlib.metadata
import platform
import shutil
from collections.abc import Sequence

import torch

import zopro_kernels as zk

from .errors import plain

_ADVICE = {
    "cpu": "install zopro again where a C++ compiler is found (Debian: g++)",
    "triton": "needs a GPU and `pip install triton`; to test, TRITON_INTERPRET=1 runs it anywhere",
    "cuda": "needs a GPU, its driver, and nvcc at install time (ZOPRO_CUDA=ON says why not)",
}
_TRAINER_PACKAGES = ("transformers", "trl", "peft", "accelerate", "datasets", "sacrebleu")


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def run(argv: Sequence[str] = ()) -> int:
    """Prints versions, each backend and, for those missing, why and what would help."""
    plain("doctor", argv)
    print(f"zopro      {_version('zopro')}, noise law {zk.LAW}")
    print(f"python     {platform.python_version()} on {platform.system()} {platform.machine()}")
    print(f"torch      {torch.__version__}, {torch.get_num_threads()} threads")
    print(f"nvcc       {shutil.which('nvcc') or 'not on the path'}")
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    print(f"GPU        {', '.join(gpus) or 'none that torch sees'}")
    print("\nbackends, fastest last")
    for name, state in zk.backends().items():
        print(f"  {name:<10} {state}")
        if state != "available":
            print(f"  {'':<10} -> {_ADVICE[name]}")
    for device in ["cpu", *(["cuda"] if gpus else [])]:
        print(f"  tensors on {device} are served by {zk.default_backend(device)!r}")
    print("\ntrainer and tasks (pip install 'zopro[train]')")
    for package in _TRAINER_PACKAGES:
        print(f"  {package:<13} {_version(package)}")
    return 0
