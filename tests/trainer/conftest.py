"""One thread, no network, no telemetry: set before transformers is imported."""

import os
import warnings

import pytest
import torch

os.environ.setdefault("CI", "1")  # TRL sends no telemetry from continuous integration
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def quiet():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of transformers, about TRL's fields
        yield
