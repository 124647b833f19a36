"""Digests of weights: the same bits, the same text, wherever the tensors lie."""

from __future__ import annotations

import ctypes
import hashlib
from collections.abc import Iterable

from torch import Tensor

_CHUNK = 1 << 24  # elements copied to the host at a time


def digest_each(tensors: Iterable[Tensor]) -> list[str]:
    """SHA-256 of the bits of each tensor (any shape, strides, dtype, device), row-major."""
    found = []
    for tensor in tensors:
        sha = hashlib.sha256()
        for chunk in tensor.detach().reshape(-1).split(_CHUNK):
            data = chunk.contiguous().cpu()
            # Its memory itself: torch alone brings no numpy.
            size = data.numel() * data.element_size()
            sha.update((ctypes.c_char * size).from_address(data.data_ptr()) if size else b"")
        found.append(sha.hexdigest())
    return found


def joined(digests: Iterable[str]) -> str:
    """One SHA-256 over several, in their order."""
    return hashlib.sha256(b"".join(map(bytes.fromhex, digests))).hexdigest()


def digest(tensors: Iterable[Tensor]) -> str:
    """One SHA-256 of the bits of all `tensors`, in their order."""
    return joined(digest_each(tensors))
