"""What the figures of policy and reward model share: their section, layers and colours."""

from __future__ import annotations

from zopro.analysis import Tracks

SECTION = "interplay"
ALL = "all layers"
COLOURS = {"policy": 0, "reward": 1}


def layers_of(tracks: Tracks) -> list[str]:
    """All layers together, then each."""
    return [ALL, *tracks.layers]


def named(layer: str) -> str | None:
    """As zopro.analysis names it."""
    return None if layer == ALL else layer
