"""One thread, no network, no telemetry: set before transformers is imported."""

import gc
import importlib
import os
import warnings

import pytest
import torch

os.environ.setdefault("CI", "1")  # TRL sends no telemetry from continuous integration
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
torch.set_num_threads(1)

importlib.import_module("zopro.iterations")


@pytest.fixture(autouse=True, scope="session")
def quick_garbage():
    """Every trainer collects garbage at its start: 0.35 s over the modules' own objects."""
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(autouse=True)
def quiet():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of transformers, about TRL's fields
        yield
