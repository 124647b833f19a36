"""Names of tensors, the same for a policy and a reward model, and the layer of each."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable

# "model.layers.3.", "transformer.h.3.", "gpt_neox.layers.3.", "decoder.block.3.": the layers
_LAYER = re.compile(r"(?:^|\.)(layers|h|blocks|block)\.(\d+)\.")
_WRAPPERS = re.compile(r"^(?:base_model|model|trunk|transformer|gpt_neox|module|_orig_mod)\.")
# PEFT puts the adapter's name in: "q_proj.lora_A.default.weight"; its files leave it out.
_ADAPTER = re.compile(r"(lora_(?:embedding_)?(?:A|B)|lora_magnitude_vector)\.(?!weight)\w+")
_SAVED = re.compile(r"\.(?:modules_to_save\.\w+|original_module)\.")
HEADS = ("score", "classifier", "lm_head", "v_head", "regression_head", "qa_outputs")
HEAD, REST = "head", "rest"


def canonical(name: str) -> str:
    """`name` without what a wrapper, an adapter's name or the model's own prefix adds to it."""
    name = _SAVED.sub(".", _ADAPTER.sub(r"\1", name))
    if found := _LAYER.search(name):
        return f"layers.{found[2]}.{name[found.end() :]}"
    while (shorter := _WRAPPERS.sub("", name)) != name:
        name = shorter
    return name


def layer_of(name: str) -> str:
    """Of a canonical name: "layers.N", "head" (scores, logits), or the module for what is left."""
    parts = name.split(".")
    if parts[0] == "layers" and len(parts) > 2 and parts[1].isdigit():
        return f"layers.{parts[1]}"
    return HEAD if parts[0] in HEADS else parts[0] if len(parts) > 1 else REST


def in_order(layers: Iterable[str]) -> list[str]:
    """Layers by their numbers, then the others by name, the head last."""
    number = {name: int(name.split(".")[1]) for name in layers if name.startswith("layers.")}
    return sorted(number, key=number.get) + sorted(
        set(layers) - set(number), key=lambda name: (name == HEAD, name)
    )


def parameter_index(name: str) -> int:
    """A canonical name's index in the law of the sketch, in [0, 2^32).

    From the name alone, so that networks and files whose other tensors differ are comparable. Two
    names of a model of 1,000 tensors share one with a probability of 1e-4; these two would then be
    added up as if they were one.
    """
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big")
