"""Without a GPU the Triton kernels run in its interpreter; it must be chosen before they load."""

import os

import torch

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")
