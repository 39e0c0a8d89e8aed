"""Checkpoints come back exactly, or are known to be damaged; a failed write harms nothing."""

from __future__ import annotations

import json
import logging
import math
import resource
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from rhtool.checkpoints import ARRAYS, STATE, Checkpoints, DamagedCheckpoint, content_hash, find, load, read
from rhtool.errors import RhtoolError

DTYPES = [
    "bool",
    "int8",
    "uint8",
    "int16",
    "uint16",
    "int32",
    "uint32",
    "int64",
    "uint64",
    "float16",
    "float32",
    "float64",
]


def same(a: Any, b: Any) -> bool:
    """Equal in type, dtype, shape and every bit."""
    if type(a) is not type(b):
        return False
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, np.ndarray | np.generic):
        return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
    if isinstance(a, float):
        return a.hex() == b.hex()
    return bool(a == b)


leaves = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**200), 2**200),
    st.floats(),
    st.text(st.characters(exclude_categories=["Cs"])),
    st.sampled_from(DTYPES).flatmap(
        lambda d: arrays.arrays(d, arrays.array_shapes(min_dims=0, max_dims=3, min_side=0))
    ),
    st.sampled_from(DTYPES).flatmap(lambda d: arrays.arrays(d, ())).map(lambda array: array[()]),
)
keys = st.one_of(st.integers(), st.text(st.characters(exclude_categories=["Cs"]), max_size=6), st.just("$array"))
trees = st.recursive(
    leaves,
    lambda inner: st.one_of(st.lists(inner), st.lists(inner).map(tuple), st.dictionaries(keys, inner)),
    max_leaves=12,
)


@settings(max_examples=150, deadline=None)
@given(state=trees)
def test_every_state_comes_back_exactly(tmp_path_factory: pytest.TempPathFactory, state: Any) -> None:
    saved = Checkpoints(tmp_path_factory.mktemp("checkpoints"))
    saved.save(7, state)
    found = saved.latest()
    assert found is not None and found[0] == 7 and same(found[1], state)


def test_generators_and_strided_arrays_come_back(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    rng.normal(size=5)
    state = {
        "rng": rng.bit_generator.state,
        "strided": np.arange(24.0).reshape(4, 6).T[::2],
        "big": np.arange(3, dtype=">f4"),
    }
    back = load(Checkpoints(tmp_path).save(1, state))
    again = np.random.default_rng()
    again.bit_generator.state = back["rng"]
    assert np.array_equal(again.normal(size=9), rng.normal(size=9))
    assert np.array_equal(back["strided"], state["strided"]) and np.array_equal(back["big"], [0, 1, 2])
    back["strided"] += 1  # what comes back can be written to


def test_tensors_and_an_optimiser_come_back(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    net = torch.nn.Linear(3, 2)
    adam = torch.optim.Adam(net.parameters())
    net(torch.ones(4, 3)).sum().backward()
    adam.step()
    state = {
        "net": net.state_dict(),
        "adam": adam.state_dict(),
        "half": net.weight.detach().bfloat16(),
        "zero_d": torch.tensor(2),
    }
    back = load(Checkpoints(tmp_path).save(1, {**state, "net": dict(state["net"])}))
    assert all(torch.equal(back["net"][key], value) for key, value in net.state_dict().items())
    assert back["half"].dtype == torch.bfloat16 and torch.equal(back["half"], state["half"])
    assert back["zero_d"].shape == () and back["zero_d"].dtype == torch.int64
    other = torch.optim.Adam(torch.nn.Linear(3, 2).parameters())
    other.load_state_dict(back["adam"])
    assert torch.equal(other.state_dict()["state"][0]["exp_avg"], adam.state_dict()["state"][0]["exp_avg"])


def test_what_cannot_be_kept_is_refused_by_its_path(tmp_path: Path) -> None:
    for value in (object(), np.array(["text"]), np.array([None]), {1.5: 0}, {1, 2}):
        with pytest.raises(TypeError, match="a/b"):
            Checkpoints(tmp_path).save(1, {"a": {"b": value}})
    assert list(tmp_path.iterdir()) == []


def test_the_last_two_stay(tmp_path: Path) -> None:
    saved = Checkpoints(tmp_path)
    for iteration in (1, 5, 20, 1_000_000):
        saved.save(iteration, {"iteration": iteration})
    assert sorted(p.name for p in tmp_path.iterdir()) == ["000020", "1000000"]
    assert saved.latest() == (1_000_000, {"iteration": 1_000_000})


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))


@pytest.mark.parametrize("name", [ARRAYS, STATE])
@pytest.mark.parametrize("harm", [cut, flip, Path.unlink, lambda path: path.write_bytes(b"")])
def test_a_damaged_checkpoint_is_passed_over(
    tmp_path: Path, harm: Any, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    saved = Checkpoints(tmp_path)
    for iteration in (1, 2):
        saved.save(iteration, {"weights": np.arange(100.0), "words": "some words", "iteration": iteration})
    harm(tmp_path / "000002" / name)
    with pytest.raises(DamagedCheckpoint):
        load(tmp_path / "000002")
    with caplog.at_level(logging.WARNING):
        found = saved.latest()
    assert found is not None and found[0] == found[1]["iteration"] == 1
    assert "000002" in caplog.text and "damaged" in caplog.text
    assert find(tmp_path).name == "000001"
    saved.save(2, {"iteration": 2})
    assert saved.latest() == (2, {"iteration": 2})


def test_every_single_byte_is_guarded(tmp_path: Path) -> None:
    directory = Checkpoints(tmp_path).save(1, {"weights": np.arange(3.0), "rng": 2**127 + 1, "word": "word"})
    for name in (ARRAYS, STATE):
        whole = (directory / name).read_bytes()
        for i in range(0, len(whole), 3):
            (directory / name).write_bytes(whole[:i] + bytes([whole[i] ^ 1]) + whole[i + 1 :])
            try:
                state = load(directory)  # a changed "schema" or "iteration" in the header harms no state
            except DamagedCheckpoint:
                continue
            assert same(state, {"weights": np.arange(3.0), "rng": 2**127 + 1, "word": "word"})
        (directory / name).write_bytes(whole)


@pytest.mark.parametrize("state", [{"arrays": np.zeros(10_000)}, {"words": "many " * 10_000}], ids=[ARRAYS, STATE])
def test_a_disk_that_is_full_harms_nothing(tmp_path: Path, state: dict[str, Any]) -> None:
    saved = Checkpoints(tmp_path)
    saved.save(1, {"weights": np.arange(10.0)})
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))  # the kernel stops the write in the middle
    try:
        with pytest.raises(RhtoolError) as raised:
            saved.save(2, state)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert "iteration 2" in raised.value.what and "free disk space" in raised.value.mend
    assert [p.name for p in tmp_path.iterdir()] == ["000001"]
    found = saved.latest()
    assert found is not None and found[0] == 1 and np.array_equal(found[1]["weights"], np.arange(10.0))
    saved.save(2, state)


def test_a_directory_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").write_text("a file in its place")
    with pytest.raises(RhtoolError) as raised:
        Checkpoints(tmp_path / "checkpoints").save(1, {})
    assert str(tmp_path) in raised.value.where and raised.value.mend


def test_what_a_killed_writer_left_is_cleared(tmp_path: Path) -> None:
    (tmp_path / ".tmp-000001").mkdir(parents=True)
    (tmp_path / ".tmp-000001" / ARRAYS).write_bytes(b"half")
    saved = Checkpoints(tmp_path)
    assert saved.latest() is None
    saved.save(2, {"a": 1})
    assert [p.name for p in tmp_path.iterdir()] == ["000002"]


def test_reading_takes_a_run_its_checkpoints_or_one_of_them(tmp_path: Path) -> None:
    state = {"policy": {"net": {"weight": np.ones(2)}, "kind": "beta"}, "rest": np.zeros(9)}
    directory = Checkpoints(tmp_path / "checkpoints").save(3, state)
    for path in (tmp_path, tmp_path / "checkpoints", directory):
        assert same(read(path), state)
        assert same(read(path, "policy/net"), state["policy"]["net"])
        assert find(path) == directory
    with pytest.raises(RhtoolError, match="did you mean 'policy'"):
        read(tmp_path, "polcy")
    with pytest.raises(RhtoolError, match="no whole checkpoint"):
        read(tmp_path / "elsewhere")


def test_the_hash_of_a_run_is_that_of_its_newest_checkpoint(tmp_path: Path) -> None:
    saved = Checkpoints(tmp_path / "checkpoints")
    saved.save(1, {"a": 1})
    first = content_hash(tmp_path)
    (tmp_path / "run.log").write_text("another time of day")
    assert content_hash(tmp_path) == first
    saved.save(2, {"a": 2})
    assert content_hash(tmp_path) != first
    plain = tmp_path / "plain"
    plain.mkdir()
    (plain / "a").write_text("1")
    before = content_hash(plain)
    (plain / "a").rename(plain / "b")
    assert content_hash(plain) != before != content_hash(plain / "b")


def test_the_file_on_disk_is_plain_json_and_safetensors(tmp_path: Path) -> None:
    from safetensors.numpy import load_file

    directory = Checkpoints(tmp_path).save(1, {"net": {"w": np.ones(2)}, "x": math.nan})
    document = json.loads((directory / STATE).read_text(), parse_constant=pytest.fail)
    assert (
        document["state"] == {"net": {"w": {"$array": "net/w"}}, "x": {"$float": "nan"}} and document["iteration"] == 1
    )
    assert np.array_equal(load_file(directory / ARRAYS)["net/w"], [1, 1])
