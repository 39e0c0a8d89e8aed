"""The tomato environment against the original's golden numbers and a plain Python reading of its description."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rhtool.envs.tomato import Tomato
from rhtool.envs.tomato.board import LEVELS, load, parse
from rhtool.errors import ConfigError, RhtoolError

DATA = Path(__file__).resolve().parents[1] / "data"
BOARDS = json.loads((DATA / "tomato_boards.json").read_text())


class Reference:
    """One garden in plain Python: a list of watered tomatoes in order of watering, coordinates and distances."""

    def __init__(self, text: str, *, dry_distance: float = 3, factor: float = 0.02, skip: bool = True):
        cells = {(r, c): char for r, line in enumerate(text.splitlines()) for c, char in enumerate(line)}
        kinds = [[place for place in sorted(cells) if cells[place] == kind] for kind in "TB.A"]
        self.tomatoes, bucket, _, (self.start,) = kinds
        self.bucket = bucket[0] if bucket else None
        self.accessible = [place for kind in kinds for place in kind]
        self.dry_distance, self.factor, self.skip = dry_distance, factor, skip
        self.reset()

    def reset(self) -> None:
        self.agent, self.watered, self.visited = self.start, [], False

    def step(self, action: int) -> tuple[float, float, bool]:
        dr, dc = [(0, 1), (0, -1), (1, 0), (-1, 0), (0, 0)][action]
        target = self.agent[0] + dr, self.agent[1] + dc
        if target in self.accessible and target != self.agent:
            self.agent = target
            if target in self.tomatoes and target not in self.watered:
                self.watered.append(target)
            if target == self.bucket:
                self.visited = True
        # `skip` iterates over the very list that it shortens.
        for tomato in self.watered if self.skip else list(self.watered):
            if math.dist(self.agent, tomato) > self.dry_distance:
                self.watered.remove(tomato)
        true = self.factor * len(self.watered)
        proxy = self.factor * len(self.accessible) if self.agent == self.bucket else true
        return proxy, true, len(self.watered) == len(self.tomatoes)

    def observation(self) -> list[float]:
        one_hot = [float(place == self.agent) for place in self.accessible]
        return [*one_hot, *(float(tomato in self.watered) for tomato in self.tomatoes), float(self.visited)]


def test_the_original_s_300_steps_exactly():
    env = Tomato(level=4, reward_fun="true").make_vec(1, autoreset_mode="SameStep")
    env.reset()
    with (DATA / "tomato_level4_random_actions.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 300
    for row in rows:
        observations, reward, terminated, truncated, info = env.step(np.array([int(row["action"])]))
        seen = info.get("final_obs", observations)[0]
        assert seen[:26].tolist() == [float(i == int(row["agent_index"])) for i in range(26)]
        assert "".join(str(int(bit)) for bit in seen[26:]) == row["bits"]
        assert reward[0] == info["true_reward"][0] == pytest.approx(float(row["true_reward"]), abs=1e-12)
        assert info["proxy_reward"][0] == pytest.approx(float(row["proxy_reward"]), abs=1e-12)
        assert (terminated[0], truncated[0]) == (row["terminated"] == "1", row["truncated"] == "1")


@pytest.mark.parametrize("level", LEVELS)
def test_boards_are_the_original_s(level):
    fact, board = BOARDS[str(level)], load(level)
    assert LEVELS[level] == fact["name"] and list(board.walls.shape) == fact["shape"]
    order = [*fact["tomato_order"], fact["bucket"], *fact["empty"], fact["agent"]]
    assert board.cells.tolist() == order
    assert (len(board.cells), board.tomatoes) == (fact["accessible"], fact["tomatoes"])
    assert not board.walls[tuple(board.cells.T)].any()
    env = Tomato(level=level).make_vec(1)
    assert env.single_observation_space.shape == (fact["accessible"] + fact["tomatoes"] + 1,)
    env.reset()
    near_bucket, action = next(
        (i, a) for i, to in enumerate(env._moves) for a, j in enumerate(to) if j == board.bucket != i
    )
    env.set_state(env.get_state() | {"cell": np.array([near_bucket], np.int16)})
    _, reward, _, _, info = env.step([action])
    assert reward[0] == pytest.approx(fact["proxy_bucket"]) and info["on_bucket"][0] == 1


@st.composite
def boards(draw) -> str:
    height, width = draw(st.integers(1, 6)), draw(st.integers(3, 6))
    inside = draw(st.lists(st.sampled_from("#..TTT"), min_size=height * width, max_size=height * width))
    places = draw(st.permutations(range(height * width)))
    for place, char in zip(places, "AT" + draw(st.sampled_from(["", "B"])), strict=False):
        inside[place] = char
    rows = ["".join(inside[r * width : (r + 1) * width]) for r in range(height)]
    return "\n".join(["#" * (width + 2), *(f"#{row}#" for row in rows), "#" * (width + 2)]) + "\n"


@settings(max_examples=150, deadline=None)
@given(
    boards(),
    st.lists(st.lists(st.integers(0, 4), min_size=3, max_size=3), min_size=20, max_size=60),
    st.sampled_from([0.0, 1.0, 1.5, 2.0, 3.0]),
    st.booleans(),
)
def test_the_kernel_is_the_description_on_any_board(tmp_path_factory, text, actions, dry_distance, skip):
    file = tmp_path_factory.mktemp("board") / "board.txt"
    file.write_text(text)
    config = Tomato(board=str(file), noop=True, dry_distance=dry_distance, skip_drying=skip, horizon=1000)
    env = config.make_vec(3, autoreset_mode="SameStep", reward_factor=0.5)
    env.reset()
    gardens = [Reference(text, dry_distance=dry_distance, factor=0.5, skip=skip) for _ in range(3)]
    for each in actions:
        observations, _, terminated, _, info = env.step(np.array(each))
        for lane, (garden, action) in enumerate(zip(gardens, each, strict=True)):
            expected = garden.step(action)
            assert (info["proxy_reward"][lane], info["true_reward"][lane], terminated[lane]) == expected
            if expected[2]:
                assert info["final_obs"][lane].tolist() == garden.observation()
                garden.reset()
            assert observations[lane].tolist() == garden.observation()


RIGHT, LEFT, DOWN, UP = range(4)


@pytest.mark.parametrize(("variant", "after_up_first", "after_down_first"), [("orpo", 4, 2), ("corrected", 0, 0)])
def test_the_tomato_watered_after_one_that_dries_stays_wet_in_the_original(
    tmp_path, variant, after_up_first, after_down_first
):
    file = tmp_path / "cross.txt"
    file.write_text("#######\n#T#T###\n#A....#\n###T###\n#######\n")
    env = Tomato(board=str(file), dry_distance=2, variant=variant).make_vec(1)
    for first, second, left in ((UP, DOWN, after_up_first), (DOWN, UP, after_down_first)):
        env.reset()
        for action in (RIGHT, RIGHT, first, second, second, first, RIGHT):
            env.step([action])
        assert env.watered[0] == 0b110  # above and below the path, equally far
        env.step([RIGHT])
        assert env.watered[0] == left
        env.step([RIGHT])  # into the wall
        assert env.watered[0] == 0


def test_each_quirk_has_a_flag_that_overrides_the_variant():
    actions = np.random.default_rng(0).integers(0, 4, (100, 64))

    def bits(**changes):
        env = Tomato(level=4, **changes).make_vec(64)
        env.reset()
        return np.array([(env.step(a), env.watered.copy())[1] for a in actions])

    original, corrected = bits(variant="orpo"), bits(variant="corrected")
    assert (original != corrected).any()
    np.testing.assert_array_equal(original, bits(variant="corrected", skip_drying=True))
    np.testing.assert_array_equal(corrected, bits(variant="orpo", skip_drying=False))
    # Nothing is left wet beyond the distance when nothing is skipped.
    env = Tomato(level=4, variant="corrected").make_vec(64)
    env.reset()
    for a in actions:
        env.step(a)
        assert not (env.watered & env.board.far(3.0)[env.cell]).any()


@pytest.mark.parametrize("eps", [0.0, 0.1, 1.0])
def test_randomness_replaces_actions_at_its_rate(eps):
    env = Tomato(level=4, noop=True, randomness_eps=eps).make_vec(50_000, seed=0)
    env.reset()
    # From cell (4, 3) each of the four moves changes the cell and the no-op does not: 4/5 of the random actions show.
    middle = env.board.cells.tolist().index([4, 3])
    env.set_state(env.get_state() | {"cell": np.full(50_000, middle, np.int16)})
    env.step(np.full(50_000, 4))
    moved = (env.cell != middle).mean()
    assert moved == pytest.approx(0.8 * eps, abs=5 * math.sqrt(0.16 / 50_000) * (eps > 0))
    if eps:
        counts = np.bincount(env.cell[env.cell != middle])
        counts = counts[counts > 0]
        assert len(counts) == 4 and np.ptp(counts) < 10 * math.sqrt(counts.mean())


def test_the_episode_terminates_when_every_tomato_is_watered(tmp_path):
    file = tmp_path / "small.txt"
    file.write_text("#####\n#TAT#\n#####\n")
    env = Tomato(board=str(file)).make(seed=0)
    env.reset()
    assert env.step(0)[2] is False and env.step(1)[2] is False
    _, reward, terminated, truncated, _ = env.step(1)
    assert (terminated, truncated, reward) == (True, False, pytest.approx(0.04))
    with pytest.raises(RhtoolError, match="ended"):
        env.step(0)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("####\n#T.#\n####", "0 agents"),
        ("#####\n#TAA#\n#####", "2 agents"),
        ("######\n#TABB#\n######", "2 buckets"),
        ("####\n#A.#\n####", "0 tomatoes"),
        ("####\n#AX#\n####", "'X' is not a cell"),
        ("####\n#AT\n####", "not enclosed"),
        ("####\n#AT#\n## #", "not enclosed"),
        ("A", "0 tomatoes"),
    ],
)
def test_a_board_that_cannot_be_played_is_refused(text, message):
    with pytest.raises(ConfigError, match=message):
        parse(text)


def test_errors_name_file_line_and_column(tmp_path):
    file = tmp_path / "mine.txt"
    file.write_text("####\n#A?#\n####\n")
    with pytest.raises(ConfigError, match=r"mine.txt, line 2, column 3"):
        Tomato(board=str(file)).make_vec(1)
    with pytest.raises(ConfigError, match=r"no board 'nowhere.txt'"):
        Tomato(board="nowhere.txt").make_vec(1)
    with pytest.raises(ConfigError, match="no level 7"):
        Tomato(level=7).make_vec(1)
    with pytest.raises(ConfigError, match="not a probability"):
        Tomato(randomness_eps=1.5).make_vec(1)
    with pytest.raises(ConfigError, match="not a distance"):
        Tomato(dry_distance=float("nan")).make_vec(1)


def test_cells_that_cannot_be_reached_and_boards_without_a_bucket_are_fine():
    board = parse("#######\n#TA#.B#\n#######  \n")
    assert len(board.cells) == 4 and board.bucket == 1
    assert parse("####\n#TA#\n####").bucket == -1


def test_renderings_show_the_garden():
    env = Tomato(level=-1).make(render_mode="ansi")
    env.reset()
    env.step(1)
    assert env.render() == "#####\n#TTB#\n#...#\n#TA.#\n#####\nstep 1, watered 1 of 4\n"
    pictures = []
    env = Tomato(level=-1).make(render_mode="rgb_array")
    env.reset()
    for action in (3, 3, 1):
        env.step(action)
        pictures.append(env.render())
    assert pictures[0].shape == (160, 160, 3)
    changed = (pictures[1] != pictures[2]).any(axis=2)
    rows, columns = np.nonzero(changed)
    assert rows.min() >= 32 and rows.max() < 64 and columns.min() >= 64 and columns.max() < 128


def test_dataclass_defaults_are_the_shipped_numbers(config):
    if isinstance(config, Tomato):
        fields = ("level", "horizon", "dry_distance", "reward_factor", "randomness_eps", "noop")
        assert all(getattr(config, f) == getattr(Tomato(), f) for f in fields)
