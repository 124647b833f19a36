"""A run's folder is not trusted: what its files say is a run or one sentence, and nothing outside
of it is touched."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from iterations.tiny_run import config

from zopro.iterations.state import versions
from zopro.iterations.store import RunFolder

OPTIONS = config("x").to_dict()


def folder_of(path, state, began=None):
    path.mkdir(exist_ok=True)
    began = {"options": OPTIONS, "data": {}, "versions": {}} if began is None else began
    for name, value in (("state.json", state), ("config.json", began)):
        data = value if isinstance(value, bytes) else json.dumps(value).encode()
        (path / name).write_bytes(data)
    return path


@pytest.mark.parametrize(
    "name",
    # No "/" among them: a store that follows it would remove the machine's files, not the test's.
    ["../../victim", "..", ".", "", "a/../../victim", "a/b", "a\\b", "ä", "x\n", 3, None, []],
)
def test_no_name_leads_out_of_the_folder(name, tmp_path):
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "mine.txt").write_text("mine")
    run = folder_of(tmp_path / "run", {"done": [name], "phase": None})
    (run / "checkpoints").mkdir()
    with pytest.raises(ValueError, match=r"holds a damaged run: its state\.json names a phase"):
        RunFolder(str(run), OPTIONS, True).create()
    assert (victim / "mine.txt").exists() and (run / "checkpoints").exists()


STATES = [[], {}, {"done": 3}, {"done": None}, 7, "x", None, b"", b"{", b"\xff", b"[" * 100_000,
          {"done": [], "phase": "../x"}]  # fmt: skip


@pytest.mark.parametrize("state", STATES)
def test_a_state_that_is_none(state, tmp_path):
    run = folder_of(tmp_path / "run", state)
    with pytest.raises(ValueError, match=r"holds a damaged run: its state.json .*new folder"):
        RunFolder(str(run), OPTIONS, True)


@pytest.mark.parametrize("began", [[], {}, {"options": {}}, {"options": [], "data": {}}, b"}",
                                   {"options": OPTIONS, "data": None}])  # fmt: skip
def test_options_that_are_none(began, tmp_path):
    run = folder_of(tmp_path / "run", {"done": [], "phase": None}, began)
    with pytest.raises(ValueError, match=r"holds a damaged run: its config.json .*new folder"):
        RunFolder(str(run), OPTIONS, True)


def test_other_versions_are_told(tmp_path, caplog):
    began = {"options": OPTIONS, "data": {}, "versions": {**versions(), "torch": "1.0"}}
    RunFolder(str(folder_of(tmp_path / "run", {"done": [], "phase": None}, began)), OPTIONS, True)
    (told,) = caplog.messages
    assert f"began with torch 1.0 and goes on with {versions()['torch']}: its end may" in told


scalars = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6)
    | st.sampled_from(["0.policy", "start", "../x", "iterations", *OPTIONS])
)  # fmt: skip
values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3)
    ),
    max_leaves=6,
)
states = values | st.fixed_dictionaries({}, optional={"done": values, "phase": values})
configs = values | st.fixed_dictionaries(
    {},
    optional={
        "options": values | st.dictionaries(st.sampled_from(list(OPTIONS)), values, max_size=3),
        "data": values | st.dictionaries(st.text(max_size=4), values, max_size=2),
    },
)


@settings(max_examples=150, deadline=None)
@given(states, configs)
def test_any_folder_is_a_run_or_one_sentence(tmp_path_factory, state, began):
    path = folder_of(tmp_path_factory.mktemp("run"), state, began)
    beside = sorted(path.parent.iterdir())
    try:
        RunFolder(str(path), OPTIONS, True, data={}).create()
    except ValueError as error:
        assert str(path) in str(error) and "name a new folder" in str(error), error
        assert "Traceback" not in str(error)
    assert sorted(path.parent.iterdir()) == beside
