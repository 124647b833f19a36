"""How policy and reward model move together: sketches of a run's weights, and measures on them.

    tracks = read_sketches("run")              # or from_checkpoints("folder of checkpoints")
    for series in measure(tracks):             # over time, in all; or measure(tracks, "layers.3")
        print(series.name, series.values, series.chance)
    points = trajectory(tracks, "pca", 2)      # {"policy": [n, 2], "reward": [m, 2]}

SciPy and scikit-learn are loaded by the functions that need them: `pip install 'zopro[report]'`.
"""

from importlib import import_module
from typing import Any

_HOME = {
    "Track": "tracks",
    "Tracks": "tracks",
    "SketchWriter": "snapshots",
    "read_sketches": "snapshots",
    "from_checkpoints": "checkpoints",
    "Series": "series",
    "Score": "ways",
    "measure": "measures",
    "scores": "ways",
    "trajectory": "trajectories",
    "trajectory_methods": "trajectories",
}

__all__ = [*_HOME]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
