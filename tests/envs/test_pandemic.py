"""The rules of the pandemic environment, one by one, against closed forms and plain readings."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from numba import njit

from rhtool.config import compose
from rhtool.envs.pandemic import Pandemic, contacts, disease, move, strategies
from rhtool.envs.pandemic.contacts import binomial, classify, expose
from rhtool.envs.pandemic.disease import book, is_tested, outcome, overall, proceed
from rhtool.envs.pandemic.kernel import FEATURES
from rhtool.envs.pandemic.move import opening, party, routines_of_the_hour
from rhtool.envs.pandemic.tables import (
    ASSIGNED,
    DECEASED,
    EXPOSED,
    HOSPITALISED,
    MINOR,
    NEEDS_HOSPITAL,
    NEGATIVE,
    PATIENT,
    POSITIVE,
    PRE_ASYMPTOMATIC,
    RECOVERED,
    RETIRED,
    S_CRITICAL,
    S_DEAD,
    S_INFECTED,
    S_NONE,
    S_RECOVERED,
    SUSCEPTIBLE,
    SYMPTOMATIC,
    T_CRITICAL,
    T_DEAD,
    UNKNOWN,
    UNTESTED,
    VISITOR,
    WORKER,
)
from rhtool.errors import RhtoolError

DATA = Path(__file__).resolve().parents[1] / "data" / "pandemic"
CONFIG = compose("env=pandemic").env
HAMLET = {"town": str(DATA / "hamlet.yaml"), "regulations": str(DATA / "hamlet_rules.yaml"), "horizon": 60}


# Kernels that Python cannot call.
@njit
def act(*arguments):
    move.act(*arguments)


@njit
def meet(*arguments):
    contacts.meet(*arguments)


@njit
def midnight(*arguments):
    disease.midnight(*arguments)


def make(lanes: int = 1, seed: int = 0, **changes):
    env = CONFIG.make_vec(lanes, seed=seed, autoreset_mode="Disabled", **changes)
    env.reset()
    return env


def act_in(env, hour: int, day: int = 0, lane: int = 0) -> None:
    """One hour in which people act, without contacts."""
    world, memory, tables = env._world(), env._memory, env.tables
    world.day[lane] = day
    weekday = day % 7
    works = (world.work_days[lane] >> weekday) & 1
    memory.duty[:] = np.where(works, world.work_hours[lane], 0)
    memory.target[:] = world.work[lane]
    opening(tables, world.stage[lane], hour, weekday, memory.opened)
    hosting = memory.hosting if env.quirks.social_events_always else memory.hosting[:0]
    routines_of_the_hour(tables, hour, weekday, memory.opened, len(hosting), memory.may, memory.reachable)
    act(env._rng[lane], tables, env.quirks, world, lane, hour, memory, hosting)


def type_id(env, name: str) -> int:
    return list(env.town.places).index(name)


def place_of(env, name: str, k: int = 0) -> int:
    return int(env.tables.first[type_id(env, name)]) + k


def send(env, persons, place: int, role: int) -> None:
    """Put persons of lane 0 somewhere."""
    for p in persons:
        env.present[0, env.role[0, p], env.place[0, p]] -= 1
        env.place[0, p], env.role[0, p] = place, role
        env.present[0, role, place] += 1


# --- regulations


def test_multipliers_compound_to_their_fixed_points():
    env = make()
    seen = []
    for day in range(60):
        env.step([2 if day < 2 else 1])
        seen.append(env.multiplier[0].copy())
    assert seen[0] == pytest.approx([1 - 0.2 * 0.99, 1 - (1 - 1.5 * 0.8) * 0.99])
    assert seen[1][0] == pytest.approx(1 - (1 - seen[0][0] * 0.48) * 0.99)
    assert seen[-1] == pytest.approx([0.01 / (1 - 0.99 * 0.48)] * 2, rel=1e-6)  # 0.0191
    env.step([0])
    for _ in range(60):
        env.step([1])
    assert env.multiplier[0, 0] == pytest.approx(0.01 / (1 - 0.99 * 0.8), rel=1e-3)  # stage 1: 0.0481
    before = 1 - env.multiplier[0, 0]
    env.step([0])
    assert 1 - env.multiplier[0, 0] == pytest.approx(before * 0.99)  # stage 0 undoes 1 % of the gap a day


def test_without_the_quirk_hygiene_and_masks_count_once():
    env = make(compounding_multipliers=False)
    for _ in range(2):
        env.step([2])
    for _ in range(5):
        env.step([1])
        assert env.multiplier[0] == pytest.approx([1 - 0.52 * 0.99, 1.5 * (1 - 0.52 * 0.99)])
    env.step([0]), env.step([0])
    assert env.multiplier[0] == pytest.approx([1, 1.5])


def test_the_stage_follows_the_action_within_its_bounds_and_locks_places():
    env = make()
    seen = [env.step([a])[4]["stage"][0] for a in (0, 2, 2, 1, 2, 2, 2, 0, 1)]
    assert seen == [0, 1, 2, 2, 3, 4, 4, 3, 3]
    closed = {0: [], 1: [], 2: ["School", "HairSalon"], 3: ["School", "HairSalon"]}
    closed[4] = ["Office", "School", "HairSalon", "RetailStore"]
    for stage, names in closed.items():
        opened = np.zeros(9, bool)
        opening(env.tables, stage, 12, 1, opened)
        expected = {name: name not in names for name in env.town.places} | {"Bar": False}
        assert dict(zip(env.town.places, opened.tolist(), strict=True)) == expected


def test_opening_hours_are_the_specification_s():
    env = make()
    expected = {
        "Home": (range(24), range(7)),
        "GroceryStore": (range(7, 21), range(6)),
        "Office": (range(9, 17), range(5)),
        "School": (range(7, 15), range(5)),
        "Hospital": (range(24), range(7)),
        "RetailStore": (range(7, 21), range(6)),
        "HairSalon": (range(9, 17), range(1, 7)),
        "Restaurant": ([*range(11, 16), *range(19, 24)], range(1, 7)),
        "Bar": (range(21, 24), range(1, 7)),
    }
    opened = np.zeros(9, bool)
    for hour in range(24):
        for weekday in range(7):
            opening(env.tables, 0, hour, weekday, opened)
            for t, name in enumerate(env.town.places):
                assert opened[t] == (hour in expected[name][0] and weekday in expected[name][1])


# --- the population


@pytest.fixture(scope="module")
def people():
    """200 populations."""
    return make(200, seed=7)


def test_populations_are_the_specification_s(people):
    who, age, home = people.who, people.age, people.home
    assert ((age <= 18) == (who == MINOR)).all() and ((age > 65) == (who == RETIRED)).all()
    assert age.min() >= 1 and age.max() <= 99
    label = np.arange(2, 101)
    weight = np.where(label < 60, 1, 1 - (label - 60) * 0.95 / 40)
    share = np.bincount(age.ravel(), minlength=100)[1:100] / age.size
    assert share == pytest.approx(weight / weight.sum(), abs=0.0025)
    high = people.group & 1
    for low, top in ((1, 20), (40, 60), (80, 99)):
        among = (age >= low) & (age <= top)
        assert high[among].mean() == pytest.approx((age[among] / 101).mean(), abs=0.015)
    assert (people.group // 2 == np.searchsorted([4, 17, 49, 64], age)).all()
    for i in range(0, 200, 20):
        nursed = math.ceil(0.065 * (who[i] == RETIRED).sum())
        order = [RETIRED] * nursed + sorted(who[i, nursed:])
        assert who[i].tolist() == order
        wards = np.bincount(home[i, :nursed], minlength=150)
        assert wards.max() <= 2 and not np.isin(home[i, nursed:], home[i, :nursed]).any()
        minors = np.bincount(home[i, who[i] == MINOR], minlength=150)
        adults = np.bincount(home[i, who[i] == WORKER], minlength=150)
        assert minors.max() <= 3 and (adults[minors > 0] >= 1).all()
        families = int((minors > 0).sum())
        others = np.bincount(home[i, nursed:], minlength=150) - minors
        assert ((minors > 0) & (others == 1)).sum() >= int(0.23 * families)
        dealt = others - ((minors > 0) & True)
        some = dealt[(wards == 0)]
        assert some.max() - some[some > 0].min() <= 1  # dealt in turn


def test_jobs_are_uniform_over_types_with_the_quirk_and_run_out_without(people):
    workplaces = people.tables.type_of[people.work[people.who == WORKER]]
    assert np.bincount(workplaces, minlength=9)[1:] / len(workplaces) == pytest.approx([1 / 8] * 8, abs=0.01)
    schooled = people.who == MINOR
    assert (people.tables.type_of[people.work[schooled]] == type_id(people, "School")).all()
    assert (people.work[people.who == RETIRED] == -1).all()
    scarce = make(50, seed=1, uniform_jobs=False)
    for i in range(50):
        mine = scarce.tables.type_of[scarce.work[i, scarce.who[i] == WORKER]]
        assert (np.bincount(mine, minlength=9)[1:] <= [10, 300, 20, 15, 10, 6, 6, 3]).all()


def test_working_hours(people):
    hospital = place_of(people, "Hospital")
    hours = people.work_hours[(people.who == WORKER) & (people.work == hospital)]
    night = sum(1 << h for h in (22, 23, *range(7)))
    days = [sum(1 << h for h in range(start, start + 9)) for start in range(7, 13)]
    assert set(hours.tolist()) == {night, *days}
    assert (hours == night).mean() == pytest.approx(0.5, abs=0.02)
    office = (people.who == WORKER) & (people.tables.type_of[people.work] == type_id(people, "Office"))
    assert set(people.work_hours[office].tolist()) == {sum(1 << h for h in range(9, 17))}
    assert set(people.work_hours[people.who == MINOR].tolist()) == {sum(1 << h for h in range(9, 15))}
    assert set(people.work_days[people.who == MINOR].tolist()) == {31}


def test_hospital_staff_work_six_days(people):
    staff = (people.who == WORKER) & (people.work == place_of(people, "Hospital"))
    days = people.work_days[staff]
    assert set(days.tolist()) == {63, 126} and (days == 63).mean() == pytest.approx(0.5, abs=0.02)


def test_routines_of_each_person(people):
    own = people.own
    assert (own[people.who == WORKER] == 127).all() and (own[people.who == RETIRED] == 63).all()
    minors = people.who == MINOR
    assert (own[minors] == np.where(people.age[minors] >= 12, 7, 3)).all()
    every = people.tables.every[people.who]
    assert ((people.offset >= 0) & (people.offset < np.maximum(every, 1))).all()
    stays = people.stay[people.who == WORKER][:, 6]
    assert set(stays.tolist()) == {1, 2} and stays.mean() == pytest.approx(1.5, abs=0.01)


def test_population_seed_shares_a_population_and_null_draws_one_per_lane():
    shared = make(3, seed=5, population_seed=9)
    again = make(2, seed=6, population_seed=9)
    other = make(2, seed=6)
    for name in ("age", "home", "work", "favourite", "chances"):
        values = getattr(shared, name)
        assert (values == values[:1]).all() and (values[:2] == getattr(again, name)).all()
        assert (getattr(other, name)[0] != getattr(other, name)[1]).any()
    before = other.age.copy()
    other.reset()
    assert (other.age == before).all()  # it stays over episodes
    other.reset(seed=7)
    assert (other.age != before).any()


# --- an hour


@pytest.mark.parametrize(("quirk", "share"), [(True, 1 - (1 - 1 / 500) ** 500), (False, 1.0)])
def test_who_acts_in_an_hour(quirk, share):
    """With replacement 63 % act. Visitors of a home leave it when they do."""
    env = make(sampling_with_replacement=quirk)
    home, acted = place_of(env, "Home"), []
    for _ in range(40):
        env.reset()
        guests = [p for p in range(500) if env.home[0, p] != home]
        send(env, guests, home, VISITOR)
        act_in(env, hour=3)
        acted.append((env.place[0, guests] != home).mean())
    assert np.mean(acted) == pytest.approx(share, abs=0.01)


def test_a_hospital_takes_as_many_patients_as_it_has_beds():
    env = make(sampling_with_replacement=False)
    critical = [p for p in range(500) if env.who[0, p] == RETIRED][:12]
    env.summary[0, critical], env.result[0, 0, critical] = S_CRITICAL, T_CRITICAL
    act_in(env, hour=2)
    inside = env.place[0, critical] == place_of(env, "Hospital")
    assert inside.sum() == 5 == env.present[0, PATIENT].sum() and (env.role[0, critical] == PATIENT).sum() == 5
    assert (env.hospital[0, critical] == inside).all()
    act_in(env, hour=3)
    assert env.present[0, PATIENT].sum() == 5  # they stay
    cured = np.array(critical)[inside][0]
    env.summary[0, cured], env.result[0, 0, cured] = S_RECOVERED, NEGATIVE
    act_in(env, hour=4)
    assert env.place[0, cured] == env.home[0, cured] and not env.hospital[0, cured]


def test_shops_take_as_many_visitors_as_fit_when_they_are_open():
    env = make(sampling_with_replacement=False)
    retired = env.who[0] == RETIRED
    env.due[0, retired] = 1  # groceries
    act_in(env, hour=6, day=1)
    assert (env.place[0] == env.home[0]).mean() > 0.9 and env.due[0, retired].all()
    act_in(env, hour=8, day=1)
    shops = [place_of(env, "GroceryStore", k) for k in range(2)]
    visitors = env.present[0, VISITOR, shops]
    assert visitors.tolist() == [30, 30]
    assert (env.due[0] & 1).sum() == retired.sum() - 60
    act_in(env, hour=9, day=1)  # the first sixty leave, others come
    assert (env.present[0, VISITOR, shops] <= 30).all() and env.due[0, retired].sum() < retired.sum() - 60


def week(env, days: int = 7):
    """Hour by hour without contacts: yields (day, hour, place before, place after) of lane 0."""
    for day in range(days):
        for hour in range(24):
            before = env.place[0].copy()
            act_in(env, hour, day)
            yield day, hour, before, env.place[0].copy()


@pytest.mark.parametrize("variant", ["orpo", "corrected"])
def test_who_may_be_where(variant):
    """Over two weeks: counts are those of the persons, capacities hold, nobody enters a closed place or one for others."""
    env = make(seed=3, variant=variant)
    tables, age = env.tables, env.age[0]
    school_days = bars = 0
    for day, hour, before, after in week(env, 14):
        counted = np.zeros_like(env.present[0])
        np.add.at(counted, (env.role[0], after), 1)
        assert (counted == env.present[0]).all()
        mine = (after == env.home[0]) | (after == env.work[0])
        assert ((env.role[0] == ASSIGNED) == mine).all()
        kinds = tables.type_of[after]
        assert (env.present[0, VISITOR] <= tables.visitors[tables.type_of]).all()
        moved = before != after
        assert env._memory.opened[kinds[moved]].all()
        assert (age[kinds == type_id(env, "Bar")] >= 21).all()
        assert (age[(kinds == type_id(env, "Office")) & moved] >= 18).all()
        if day % 7 < 5 and hour == 12:
            school_days += (kinds[env.who[0] == MINOR] == type_id(env, "School")).mean()
        bars += (kinds == type_id(env, "Bar")).sum()
    assert school_days / 10 > 0.95 and bars > 100
    assert env.started[0].any() and env.done[0].any()


def test_social_visits_always_with_the_quirk_and_twelve_days_a_year_without():
    always, mended = make(), make(variant="corrected")
    homes = always._homes[1]
    assert always.parties.size == 0 and mended.parties.shape == (1, homes, 12)
    assert mended.parties.min() >= 0 and mended.parties.max() < 365

    def guests(env) -> int:
        return sum(
            ((env.tables.type_of[after] == 0) & (after != env.home[0])).sum()
            for day, hour, _, after in week(env)
            if day == 0 and 15 <= hour <= 19
        )

    assert guests(always) > 100 and guests(mended) == 0


def test_a_social_visit_comes_up_again_on_every_seventh_day_only():
    """Once begun it stays begun until the midnight of a day that seven divides."""
    env = make(seed=2, sampling_with_replacement=False)
    workers, begun = np.flatnonzero(env.who[0] == WORKER), []
    for day in range(15):
        for hour in range(24):
            before = (env.started[0, workers] >> 6) & 1
            act_in(env, hour, day)
            begun += [(day, p) for p in np.flatnonzero(~before & (env.started[0, workers] >> 6) & 1)]
    assert len(begun) > 200 and (env.done[0, workers] >> 6).any()
    weeks = {}
    for day, p in begun:
        weeks.setdefault(p, []).append(day // 7)
    assert all(len(set(visits)) == len(visits) for visits in weeks.values())  # at most one between two such days


@pytest.mark.parametrize("explore", [0.05, 0.5])
def test_the_share_of_visits_that_are_not_to_the_favourite(explore):
    """Another place is drawn among all of the type, the favourite too."""
    env, routine = make(seed=1, sampling_with_replacement=False), 2
    env.tables.explore[WORKER, routine] = explore
    store, other = (place_of(env, "RetailStore", k) for k in range(2))
    env.tables.visitors[type_id(env, "RetailStore")] = 500
    workers, visits = np.flatnonzero(env.who[0] == WORKER), []
    env.favourite[0, workers, routine], env.own[0, workers], env.work_days[0] = store, 1 << routine, 0
    for _ in range(15):
        env.reset()
        env.due[0, workers] = 1 << routine
        act_in(env, hour=12, day=1)
        visits += env.goal[0, workers[env.started[0, workers] > 0], 0].tolist()
    assert set(visits) == {store, other} and len(visits) > 3000
    error = math.sqrt(explore / 2 * (1 - explore / 2) / len(visits))
    assert np.mean(np.array(visits) == other) == pytest.approx(explore / 2, abs=4 * error)


def test_stays_last_their_hours_without_the_quirk():
    for quirk in (True, False):
        env = make(short_visits=quirk, sampling_with_replacement=False)
        workers = np.flatnonzero(env.who[0] == WORKER)
        env.stay[0, :, 6] = 2
        act_in(env, hour=19, day=5)
        away = workers[(env.place[0, workers] != env.home[0, workers]) & ((env.started[0, workers] >> 6) & 1 == 1)]
        assert len(away) > 100
        goals = env.goal[0, away, 0].copy()
        act_in(env, hour=20, day=5)
        stayed = (env.place[0, away] == goals).mean()
        assert stayed == (0.0 if quirk else 1.0)
        act_in(env, hour=21, day=5)
        assert (env.place[0, away] == goals).mean() < 0.1


def test_the_sick_are_sent_home_where_the_stage_says_so():
    for stage, sick_go_out, expected in ((0, True, False), (1, True, True), (1, False, True)):
        env = make(sampling_with_replacement=False, sick_go_out=sick_go_out)
        env.stage[0] = stage
        office = np.flatnonzero(env.tables.type_of[env.work[0]] == type_id(env, "Office"))
        office = office[env.who[0, office] == WORKER]
        act_in(env, hour=10)
        at_work = office[env.place[0, office] == env.work[0, office]]
        assert len(at_work) > 20
        env.result[0, 0, at_work] = POSITIVE
        act_in(env, hour=11)
        home = (env.place[0, at_work] == env.home[0, at_work]).mean()
        assert home > 0.9 if expected else home < 0.2
        act_in(env, hour=12)  # with the quirk they go back
        if stage == 1:
            home = (env.place[0, at_work] == env.home[0, at_work]).mean()
            assert home < 0.2 if sick_go_out else home > 0.9


def test_cautious_persons_avoid_gatherings():
    env = make()
    s, homes = env._rng[0].copy(), np.arange(3, dtype=np.int16)
    present = np.zeros((3, 3), np.int16)
    present[ASSIGNED], present[VISITOR] = [4, 2, 0], [0, 5, 0]

    def chosen(size, cautious, uncounted=True) -> set[int]:
        return {party(s, size, cautious, uncounted, 0, homes, present) for _ in range(200)}

    assert chosen(-1, True) == chosen(0, False) == chosen(2, False) == {0, 1, 2}
    assert chosen(0, True) == {-1}
    assert chosen(3, True) == {1, 2} and chosen(3, True, uncounted=False) == {2}
    assert party(s, -1, True, True, 0, homes[:0], present) == -1


# --- contacts


def test_binomial_numbers():
    s = make()._rng[0].copy()
    for k, p in ((3, 0.4), (50, 0.02), (400, 0.1), (60, 0.7)):
        draws = np.array([binomial(s, k, p) for _ in range(6000)])
        assert draws.mean() == pytest.approx(k * p, abs=4.5 * math.sqrt(k * p * (1 - p) / 6000))
        assert draws.var() == pytest.approx(k * p * (1 - p), rel=0.12)
        assert draws.min() >= 0 and draws.max() <= k
    assert binomial(s, 7, 1.0) == 7


def naive_hour(rng, sizes, ill, at_least, share, chance) -> int:
    """The specification's contacts at one place, pair by pair: how many of the healthy are infected.

    `sizes`: persons assigned, visitors; `ill`: of them infectious (the first ones)."""
    groups = [[(g, k) for k in range(sizes[g])] for g in range(2)]
    caught, contacts = set(), set()
    for g, (one, two) in enumerate(((0, 0), (0, 1), (1, 1))):
        if one == two:
            pairs = [(a, b) for i, a in enumerate(groups[one]) for b in groups[one][i + 1 :]]
        else:
            pairs = [(a, b) for a in groups[one] for b in groups[two]]
        if pairs:
            fraction = min(1.0, max(0.0, rng.normal(share[g], 0.01)))
            k = max(at_least[g], int(fraction * len(pairs)))
            contacts |= {pairs[x] for x in rng.integers(0, len(pairs), k)}
    for a, b in contacts:
        sick = [p[1] < ill[p[0]] for p in (a, b)]
        if sick[0] != sick[1] and rng.random() < chance:
            caught.add(b if sick[0] else a)
    return len(caught)


@pytest.mark.parametrize(
    ("name", "sizes", "ill", "stage"),
    [
        ("Home", (4, 1), (1, 0), 0),
        ("Home", (3, 2), (0, 1), 4),
        ("Restaurant", (12, 20), (1, 3), 0),
        ("Restaurant", (12, 20), (1, 3), 4),
        ("Bar", (15, 4), (4, 1), 0),
        ("School", (10, 0), (2, 0), 2),
        ("GroceryStore", (3, 9), (0, 2), 3),
    ],
)
def test_infections_at_a_place_are_those_of_the_plain_reading(name, sizes, ill, stage):
    """Mean and variance of the number infected in an hour, over thousands of hours: only some pairs are drawn, but
    nothing differs from drawing them all."""
    env, hours, chance = make(), 4000, 0.4
    t, place = type_id(env, name), place_of(env, name)
    env.stage[0], env.day[0] = stage, 3
    env.multiplier[0] = 1.0
    env.course[0, 0], env.spread[0, 0] = RECOVERED, chance
    env.place[0], env.role[0] = place_of(env, "Office"), ASSIGNED
    env.present[0] = 0
    mine = np.arange(sum(sizes))
    env.place[0, mine] = place
    env.role[0, mine] = [ASSIGNED] * sizes[0] + [VISITOR] * sizes[1]
    env.present[0, :2, place] = sizes
    sick = [p for g, start in ((0, 0), (1, sizes[0])) for p in range(start, start + ill[g])]
    kept = 1 if name == "Home" else 1 - env.tables.avoided[stage]
    found = []
    for _ in range(hours):
        env.course[0, 0, mine] = SUSCEPTIBLE
        env.course[0, 0, sick] = PRE_ASYMPTOMATIC
        env.caught[0] = -1
        classify(env.course[0], env.caught[0], env._memory)
        meet(env._rng[0], env.tables, True, env._world(), 0, env._memory)
        assert set(np.unique(env.caught[0])) <= {-1, t}
        found.append((env.caught[0, 0] >= 0).sum())
    rng = np.random.default_rng(0)
    at_least, share = env.tables.at_least[t], env.tables.share[t] * kept
    expected = [naive_hour(rng, sizes, ill, at_least, share, chance) for _ in range(hours)]
    error = math.sqrt((np.var(found) + np.var(expected)) / hours)
    assert np.mean(found) == pytest.approx(np.mean(expected), abs=4 * error + 1e-9)
    assert np.var(found) == pytest.approx(np.var(expected), rel=0.15, abs=0.01)
    assert np.mean(expected) > 0.01
    assert not env._memory.drawn.any() and not env._memory.marked.any() and (env._memory.head == -1).all()


def test_exposure_over_a_day_has_its_closed_form():
    """n contacts of chance p leave (1 - p)^n uninfected, and the place noted is that of the first that infects."""
    env = make()
    s, spread, multiplier = env._rng[0].copy(), np.full((2, 2), 0.1, np.float32), np.array([0.5, 1.5])
    where, n = [], 20_000
    for _ in range(n):
        klass, caught = np.array([1, 4], np.uint8), np.full((2, 2), -1, np.int8)
        for place in (0, 5, 7):
            expose(s, 1, 0, place, True, klass, spread, multiplier, caught)
        where.append(caught[0, 1])
        assert caught[1].tolist() == [-1, -1] and caught[0, 0] == -1
    shares = [np.mean(np.array(where) == place) for place in (-1, 0, 5, 7)]
    p = 0.05
    assert shares == pytest.approx([(1 - p) ** 3, p, p * (1 - p), p * (1 - p) ** 2], abs=0.007)


def test_delta_and_alpha_spread_apart_but_for_the_quirk():
    env = make()
    s, spread, multiplier = env._rng[0].copy(), np.ones((2, 2), np.float32), np.ones(2)
    for hides, expected in ((True, -1), (False, 3)):
        # both infectious with alpha, the first one with delta too
        klass, caught = np.array([1 | 2, 1 | 8], np.uint8), np.full((2, 2), -1, np.int8)
        expose(s, 0, 1, 3, hides, klass, spread, multiplier, caught)
        assert caught[1, 1] == expected
    klass, caught = np.array([2 | 4, 1 | 8], np.uint8), np.full((2, 2), -1, np.int8)
    expose(s, 0, 1, 3, True, klass, spread, multiplier, caught)
    assert caught.tolist() == [[3, -1], [-1, 3]] and klass.tolist() == [2, 1]  # each gave the other one's


def test_the_second_strain_spreads_with_its_own_probability():
    """Two colleagues at a place where every pair meets: spread times the second strain's multiplier."""
    env, hours = make(), 4000
    place, mine = place_of(env, "Office"), [10, 11]
    env.day[0], env.delta_start[0] = 100, 95
    env.course[0], env.present[0] = RECOVERED, 0
    env.spread[0], env.multiplier[0] = [[0.9], [0.3]], [1.0, 0.5]
    env.place[0], env.place[0, mine], env.role[0, mine] = place_of(env, "Home"), place, ASSIGNED
    env.present[0, ASSIGNED, place] = 2
    found = 0
    for _ in range(hours):
        env.course[0, 1, mine], env.caught[0] = [PRE_ASYMPTOMATIC, SUSCEPTIBLE], -1
        classify(env.course[0], env.caught[0], env._memory)
        meet(env._rng[0], env.tables, True, env._world(), 0, env._memory)
        found += env.caught[0, 1, 11] == type_id(env, "Office")
    assert found / hours == pytest.approx(0.3 * 0.5, abs=4 * math.sqrt(0.15 * 0.85 / hours))


# --- the disease and the tests


def test_chances_are_the_specification_s(people):
    chances, high_retired = people.chances, 9
    assert (1 / chances[:, :, EXPOSED, :].sum(-1) >= 2.8).all() and (1 / chances[:, :, EXPOSED, :].sum(-1) <= 3).all()
    assert chances[:, :, EXPOSED, 0, 1] / chances[:, :, EXPOSED, 0].sum(-1) == pytest.approx(0.57)
    assert chances[:, :, PRE_ASYMPTOMATIC, :, 0] == pytest.approx(1 / 2.3)
    # Of the symptomatic, need per cent come to need a hospital, whatever the rates: the rates are made so.
    ends = chances[:, :, SYMPTOMATIC]
    need = np.array([0.0279, 0.2791, 0.0215, 0.2146, 1.3215, 13.2154, 2.8563, 28.5634, 3.3873, 33.8733]) / 100
    assert ends[..., 0] / ends.sum(-1) == pytest.approx(np.broadcast_to(need, (200, 2, 10)))
    assert chances[0, 0, NEEDS_HOSPITAL, high_retired] == pytest.approx([(1 - 0.4269) * 0.0214286, 0.4269 * 0.3])
    cured, dead = chances[:, :, HOSPITALISED, high_retired].reshape(-1, 2).T
    assert ((cured * 10.6 < 1 - 0.2269) & (cured * 10.9 > 1 - 0.2269)).all()
    assert ((dead * 7.8 <= 0.2269 + 1e-12) & (dead * 8.2 >= 0.2269 - 1e-12)).all()


def test_courses_end_as_their_chances_say():
    env = make()
    s, chances = env._rng[0].copy(), np.ascontiguousarray(env.chances[0, 0, :, 9])
    ends, days = [], []
    for _ in range(8000):
        course, length = SYMPTOMATIC, 0
        while course == SYMPTOMATIC:
            course, length = proceed(s, course, False, chances), length + 1
        ends.append(course == NEEDS_HOSPITAL)
        days.append(length)
    assert np.mean(ends) == pytest.approx(0.338733, abs=0.02)
    assert np.mean(days) == pytest.approx(1 / chances[SYMPTOMATIC].sum(), rel=0.03)
    assert all(proceed(s, course, False, chances) == course for course in (SUSCEPTIBLE, RECOVERED, DECEASED))
    assert proceed(s, NEEDS_HOSPITAL, True, chances) == HOSPITALISED
    assert {proceed(s, EXPOSED, False, chances) for _ in range(200)} == {EXPOSED, 2, 3}


def test_six_persons_of_nursing_homes_begin_each_strain():
    env = make(40, seed=4)
    for day in range(107):
        started = env.day > env.delta_start
        env.step(np.full(40, 2 if day < 4 else 1))
        if day == 0:
            assert (env.course[:, 0, :6] >= EXPOSED).all() and (env.course[:, 0, 6:] == SUSCEPTIBLE).all()
            assert (env.spread[:, 0, :6] > 0).all() and (env.spread[:, 0, 6:] == 0).all()
        assert ((env.course[:, 1, 0] == UNKNOWN) == ~started).all()
        first = env.day - 1 == env.delta_start + 1
        assert (env.course[first, 1, :6] >= EXPOSED).all() and (env.course[first, 1, 6:] == SUSCEPTIBLE).all()
    assert set(env.delta_start) <= set(range(95, 105)) and len(set(env.delta_start)) > 5
    spread = env.spread[env.spread > 0]
    assert spread.min() > 0 and spread.mean() == pytest.approx(0.026, abs=0.003)


def test_the_second_strain_starts_and_spreads_whoever_died_before_it():
    """The first six who are left begin it, and two who have the first strain can still give each other the second."""
    env = make(invisible_deaths=False, alpha_hides_delta=False)
    env.day[0], env.delta_start[0] = 96, 95
    gone, tonight = [0, 2], 3
    env.course[0, 0], env.caught[0] = PRE_ASYMPTOMATIC, -1
    env.course[0, 0, gone], env.summary[0, gone] = DECEASED, S_DEAD
    env.chances[0] = 0
    env.course[0, 0, tonight], env.chances[0, 0, HOSPITALISED, :, 1] = HOSPITALISED, 1
    midnight(env._rng[0], env.tables, env.quirks, env._world(), 0)
    assert np.flatnonzero(env.course[0, 1] == EXPOSED).tolist() == [1, 4, 5, 6, 7, 8]
    assert env.course[0, 1, gone].tolist() == [UNKNOWN] * 2 and env.summary[0, tonight] == S_DEAD
    env.course[0, 1, 1], env.spread[0, 1] = PRE_ASYMPTOMATIC, 1
    classify(env.course[0], env.caught[0], env._memory)
    env.place[0, 1:], env.role[0], env.present[0] = place_of(env, "Office"), ASSIGNED, 0
    env.place[0, gone] = -1
    env.present[0, ASSIGNED, place_of(env, "Office")] = 497
    meet(env._rng[0], env.tables, False, env._world(), 0, env._memory)
    assert (env.caught[0, 1] >= 0).any()


def test_summaries_of_two_strains():
    order = [S_DEAD, S_CRITICAL, S_INFECTED, S_RECOVERED, S_NONE]
    for i, a in enumerate(order):
        for j, b in enumerate(order):
            assert overall(a, b) == order[min(i, j)]


@pytest.mark.parametrize(
    ("last", "hospital", "alpha", "delta", "expected"),
    [
        (UNTESTED, False, SUSCEPTIBLE, UNKNOWN, 0.3),
        (NEGATIVE, False, PRE_ASYMPTOMATIC, SUSCEPTIBLE, 0.3),
        (UNTESTED, False, SYMPTOMATIC, UNKNOWN, 0.3),
        (POSITIVE, False, RECOVERED, RECOVERED, 0.3),
        (NEGATIVE, False, NEEDS_HOSPITAL, UNKNOWN, 1.0),
        (NEGATIVE, False, SUSCEPTIBLE, NEEDS_HOSPITAL, 1.0),
        (NEGATIVE, True, RECOVERED, UNKNOWN, 1.0),
    ],
)
def test_who_is_tested(last, hospital, alpha, delta, expected):
    env = make()
    s = env._rng[0].copy()
    rate = np.mean([is_tested(s, env.tables.tests, last, hospital, alpha, delta) for _ in range(5000)])
    assert rate == pytest.approx(expected, abs=0.03)
    quiet = np.array([0.0, 0.5, 1.0, 0.2, 0.0, 0.0])
    rate = np.mean([is_tested(s, quiet, POSITIVE, False, SYMPTOMATIC, UNKNOWN) for _ in range(5000)])
    assert rate == pytest.approx(0.5, abs=0.03)
    rate = np.mean([is_tested(s, quiet, POSITIVE, False, RECOVERED, UNKNOWN) for _ in range(5000)])
    assert rate == pytest.approx(0.2, abs=0.03)


def test_tests_err_as_often_as_they_should():
    env = make()
    s, rates = env._rng[0].copy(), np.array([0, 0, 0, 0, 0.1, 0.2])
    for course, right, wrong, error in (
        (SUSCEPTIBLE, NEGATIVE, POSITIVE, 0.1),
        (RECOVERED, NEGATIVE, POSITIVE, 0.1),
        (DECEASED, NEGATIVE, POSITIVE, 0.1),
        (SYMPTOMATIC, POSITIVE, NEGATIVE, 0.2),
        (NEEDS_HOSPITAL, T_CRITICAL, NEGATIVE, 0.2),
        (HOSPITALISED, T_CRITICAL, NEGATIVE, 0.2),
    ):
        results = np.array([outcome(s, rates, course) for _ in range(4000)])
        assert set(results.tolist()) == {right, wrong}
        assert (results == wrong).mean() == pytest.approx(error, abs=0.025)


def test_bookkeeping_drifts_with_the_quirk_only():
    """Two persons, each negative, positive, negative (recovered), positive, negative."""
    for quirk, expected in ((True, [0, 0, 0, 0, 2]), (False, [0, 0, 0, 0, 2])):
        books = np.array([0, 0, 0, 2, 0], np.int32)
        for _ in range(2):
            for new, last, before in ((1, 0, 0), (2, 1, 0), (1, 2, 1), (2, 1, 1), (1, 2, 1)):
                book(quirk, new, last, bool(before), books)
        assert books.tolist() == expected and books.sum() == 2
    for quirk, expected in ((True, [0, 0, 1, 1, 1]), (False, [0, 0, 1, 2, 0])):
        # Of three, one was recovered and falls ill again: with the quirk a healthy one leaves the books instead.
        books = np.array([0, 0, 0, 2, 1], np.int32)
        book(quirk, POSITIVE, NEGATIVE, True, books)
        assert books.tolist() == expected


def test_deaths_are_invisible_with_the_quirk_and_leave_the_town_without():
    for variant in ("orpo", "corrected"):
        env = make(30, seed=2, variant=variant, **HAMLET)
        for _ in range(50):
            _, _, _, _, info = env.step(np.ones(30, int))
        assert info["dead"].sum() > 60
        gone = env.place == -1
        if variant == "orpo":
            assert not info["tested_dead"].any() and not gone.any()
        else:
            assert (info["tested_dead"] == info["dead"]).all()
            assert (gone == (env.summary == S_DEAD)).all() and (env.result[:, 0][gone] == T_DEAD).all()
        assert (env.present.sum((1, 2)) == 80 - gone.sum(1)).all()
        for books in (env.books, env.counts):
            assert (books.sum(2) == 80).all() and books.min() >= 0


def test_only_alpha_s_patients_are_treated_with_the_quirk():
    for quirk in (True, False):
        env = make()
        sick = np.arange(100, 200)
        env.day[0], env.delta_start[0] = 100, 95
        env.course[0] = RECOVERED
        env.course[0, 1, sick] = NEEDS_HOSPITAL
        env.hospital[0, sick] = True
        quirks = env.quirks._replace(alpha_only_hospital=quirk)
        midnight(env._rng[0], env.tables, quirks, env._world(), 0)
        assert (env.course[0, 1, sick] == HOSPITALISED).mean() == (0.0 if quirk else 1.0)
        env.course[0, 0, sick] = NEEDS_HOSPITAL
        midnight(env._rng[0], env.tables, quirks, env._world(), 0)
        assert (env.course[0, 0, sick] == HOSPITALISED).all()


# --- rewards and observations


@pytest.mark.parametrize("variant", ["orpo", "corrected"])
def test_rewards_are_their_formulas(variant):
    env = make(20, seed=1, variant=variant, true_weights=[7, 5, 0.3, 0.02], proxy_weights=[2, 0, 0.1, 0.5], **HAMLET)
    rng, ill, stage = np.random.default_rng(0), np.zeros(20), np.zeros(20)
    rises = 0
    for _ in range(40):
        actions = rng.integers(0, 3, 20)
        _, _, _, _, info = env.step(actions)
        a = -info["critical"] / 80
        rose = info["stage"] > stage
        b = -1.0 * rose * (np.minimum(ill - 0.005, 0) / 0.005) ** 2
        level = actions if variant == "orpo" else info["stage"]
        c, d = -((level / 2) ** 1.5), -abs(info["stage"] - stage)
        np.testing.assert_allclose(info["true_reward"], 7 * a + 5 * b + 0.3 * c + 0.02 * d, atol=1e-12)
        np.testing.assert_allclose(info["proxy_reward"], 2 * a + 0.1 * c + 0.5 * d, atol=1e-12)
        np.testing.assert_allclose(info["political_reward"], b, atol=1e-12)
        ill, stage = (info["infected"] + info["critical"] + info["dead"]) / 80, info["stage"]
        rises += rose.sum()
    assert rises > 50


def test_raising_the_stage_on_the_first_day_costs_the_true_reward_ten():
    info = make().step([2])[4]
    assert info["true_reward"][0] == pytest.approx(-10 - 0.1 * 2**1.5 / 8 - 0.01)
    assert info["proxy_reward"][0] == pytest.approx(-0.1 * 2**1.5 / 8 - 0.01)


def test_the_observation_is_the_last_days_as_tests_see_them():
    env = make(3, seed=0)
    observation, _ = env.reset()
    assert observation.shape == (3, 24, FEATURES) and not observation.any()
    assert env.latest.tolist() == list(range(23 * 13, 24 * 13))
    previous = observation
    for day in range(12):
        observation, _, _, _, info = env.step([2, 1, 0] if day < 3 else [1, 1, 1])
        np.testing.assert_array_equal(observation[:, :-3], previous[:, 3:])
        new = observation[:, -3:]
        hours = np.array([8, 16, 24]) + 24 * day
        np.testing.assert_allclose(new[:, :, 0], np.tile(hours / 8760, (3, 1)), rtol=1e-6)
        assert (new[:, :, 1] == info["stage"][:, None]).all()
        assert (new[:, :, 2] == (info["tested_infected"] >= 10)[:, None]).all()
        np.testing.assert_allclose(new[:, :, 3:8].sum(2), 1, rtol=1e-6)
        np.testing.assert_allclose(new[:, 0, 3:8], env.books[:, 1] / 500, rtol=1e-6)
        np.testing.assert_allclose(new[:, 0, 8:], env.books[:, 2] / 500, rtol=1e-6)
        previous = observation


def test_the_end_of_the_horizon_terminates_with_the_quirk_only():
    for variant, expected in (("orpo", (True, False)), ("corrected", (False, True))):
        env = make(variant=variant, **HAMLET | {"horizon": 3})
        for _ in range(3):
            _, _, terminated, truncated, _ = env.step([1])
        assert (terminated[0], truncated[0]) == expected


# --- the controller


def follow(env, days: int) -> list[int]:
    """Stages under the controller."""
    return [int(env.step(env.base_action(env.observe()))[4]["stage"][0]) for _ in range(days)]


def test_the_inverted_controller_never_leaves_stage_zero():
    for strategy in strategies.PLANS:
        assert set(follow(make(strategy=strategy, **HAMLET), 12)) == {0}
    env = make(strategy="S2", **HAMLET)
    env.step([2])
    assert env.base_action(env.observe())[0] == 0  # the plan is above: lower
    env = make(strategy="S0", **HAMLET)
    env.step([2])
    assert env.base_action(env.observe())[0] == 2  # below: raise


@pytest.mark.parametrize(
    ("strategy", "expected"),
    [
        ("S0", [0] * 100),
        ("S3", [1, 2, 3] + [3] * 97),
        ("S0-4-0", [1, 2, 3, *[4] * 27, 3, 2, 1, *[0] * 67]),
        ("S0-4-0-GI", [1, 2, 3, *[4] * 27, *[3] * 20, *[2] * 20, *[1] * 20, *[0] * 10]),
        ("italian", [*[0] * 3, *[1] * 5, *[2] * 5, *[3] * 12, *[4] * 34, *[3] * 20, *[2] * 21]),
    ],
)
def test_the_mended_controller_follows_its_plan(strategy, expected):
    rules = {"regulations": str(DATA / "hamlet_rules5.yaml")}
    env = make(strategy=strategy, variant="corrected", **HAMLET | rules | {"horizon": 100})
    assert follow(env, 100) == expected
    env.reset()
    assert follow(env, 5) == expected[:5]


def test_with_the_quirk_a_plan_moves_on_late_and_stays_at_its_end():
    rules = {"regulations": str(DATA / "hamlet_rules5.yaml")}
    env = make(strategy="swedish", inverted_controller=False, **HAMLET | rules)
    assert follow(env, 6) == [0, 0, 0, 0, 1, 1]  # one day late
    env.reset()
    assert follow(env, 3) == [1, 1, 1]  # the second episode begins at the last entry
    env.reset(seed=0)
    assert follow(env, 3) == [0, 0, 0]


def test_a_second_episode_of_a_mixture_stays_at_the_end_of_its_own_plan():
    """The entry carried over may lie past the end of the new plan."""
    rules = {"regulations": str(DATA / "hamlet_rules5.yaml")}
    env = make(60, seed=1, strategy="mixture", inverted_controller=False, **HAMLET | rules)
    for _ in range(32):
        env.step(env.base_action(env.observe()))
    env.reset()
    plans = list(strategies.PLANS.values())
    past = 0
    for lane, stage in enumerate(strategies.planned(env.strategy, env.entry, env.day, True)):
        plan, entry = plans[env.strategy[lane]], int(env.entry[lane])
        past += entry >= len(plan)
        assert stage == plan[min(entry, len(plan) - 1)][0]
    assert past > 10
    for _ in range(5):
        env.step(env.base_action(env.observe()))
    for stage in range(5):  # the plans S0 to S4 come first
        assert (env.stage[env.strategy == stage] == stage).all()


def test_a_mixture_draws_one_of_the_ten_for_each_episode():
    env = make(400, seed=1, **HAMLET)
    shares = np.bincount(env.strategy, minlength=10) / 400
    assert (shares > 0.04).all() and (shares < 0.17).all()
    first = env.strategy.copy()
    env.reset()
    assert (env.strategy != first).mean() > 0.8
    state = env.get_state()
    actions = env.base_action(env.observe())
    assert (env.base_action(env.observe()) == actions).all()
    for key, value in env.get_state().items():
        np.testing.assert_array_equal(value, state[key])


# --- towns and regulations of one's own


def test_another_town_and_its_regulations():
    env = make(4, seed=0, **HAMLET)
    assert env.single_observation_space.high[0, 1] == 2
    for day in range(60):
        observation, _, _, _, info = env.step(np.array([0, 1, 2, day % 3]))
        assert env.single_observation_space.contains(observation[0])
    assert info["stage"][2] == 2 and env.infections.sum() > 20
    files = Pandemic(**HAMLET).inputs()
    assert files == {"town": HAMLET["town"], "regulations": HAMLET["regulations"]}
    assert all(Path(file).is_file() for file in Pandemic().inputs().values())


def written(tmp_path, source: str, old: str, new: str) -> str:
    text = (DATA / source).read_text()
    assert old in text
    (tmp_path / source).write_text(text.replace(old, new, 1))
    return str(tmp_path / source)


@pytest.mark.parametrize(
    ("field", "source", "old", "new", "message"),
    [
        ("regulations", "hamlet_rules.yaml", "{stage: 1,", "{stage: 3,", "stage 1 is missing"),
        ("regulations", "hamlet_rules.yaml", "masks: true, ", "", "'stages\\[2\\].masks' is missing"),
        ("regulations", "hamlet_rules.yaml", "[Pub, School]", "[Pubb]", "did you mean 'Pub'"),
        ("regulations", "hamlet_rules.yaml", "[Pub, School]", "[Shop]", "cannot be locked"),
        ("regulations", "hamlet_rules.yaml", "social_distancing: 0.8", "social_distancing: 8", "not a share"),
        ("regulations", "hamlet_rules.yaml", "masks: true", "mask: true", "did you mean 'masks'"),
        ("town", "hamlet.yaml", "persons: 80", "persons: many", "persons"),
        ("town", "hamlet.yaml", "persons: 80", "persons: 900", "too few homes"),
        ("town", "hamlet.yaml", "persons: 80", "persens: 80", "did you mean 'persons'"),
        ("town", "hamlet.yaml", "kind: home", "kind: school", "0 types of home"),
        ("town", "hamlet.yaml", "[[8, 19]]", "[[8, 24]]", "is no range"),
        ("town", "hamlet.yaml", "place: Shop, every: 3", "place: Shopp, every: 3", "did you mean 'Shop'"),
        ("town", "hamlet.yaml", "retest: 0.033, ", "", "testing.retest"),
        ("town", "hamlet.yaml", "need_low: [10, 10,", "need_low: [10,", "need_low"),
        ("town", "hamlet.yaml", "persons: 80", "[persons", "not a YAML file"),
        ("town", "hamlet.yaml", "persons: 80", "persons: 80\npersons: 90", "duplicate"),
        ("town", "hamlet.yaml", "hours: [[8, 19]]", "hours: [7, 20]", "places.Shop.hours\n.*list of lists of whole"),
        ("town", "hamlet.yaml", "hours: [[8, 19]]", "hours: []", "empty list\n.*places.Shop.hours"),
        ("town", "hamlet.yaml", "days: [4, 5]", "days: []", "empty list\n.*routines\\[2\\].days"),
        ("town", "hamlet.yaml", "hours: [12, 13]", "hours: []", "range\n.*routines\\[1\\].hours"),
        ("town", "hamlet.yaml", "number: 40", "number: 32765", "places.House.number"),
        ("town", "hamlet.yaml", "jobs: 10, visitors: 12", "jobs: -1, visitors: 12", "places.Shop.jobs"),
        ("town", "hamlet.yaml", "visitors: 12", "visitors: -1", "places.Shop.visitors\n.*null"),
        ("town", "hamlet.yaml", "visitors: 12", "visitors: twelve", "places.Shop.visitors\n.*a whole number or null"),
        ("town", "hamlet.yaml", "patients: 2", "patients: -2", "places.Clinic.patients"),
        ("town", "hamlet.yaml", "ages: [21, 110]", "ages: [110, 21]", "places.Pub.ages"),
        ("town", "hamlet.yaml", "min_age: 12", "min_age: 40000", "routines\\[4\\].min_age"),
        ("town", "hamlet.yaml", "again: 7", "again: 40000", "routines\\[4\\].again"),
        ("town", "hamlet.yaml", "hospital_need_rate: 0.1695", "hospital_need_rate: 0", "virus.hospital_need_rate"),
        ("town", "hamlet.yaml", "delta_start: [10, 12]", "delta_start: [10, 3000000000]", "virus.delta_start"),
        ("town", "hamlet.yaml", "pre_days: 2.3", "pre_days: .inf", "virus.pre_days"),
        ("town", "hamlet.yaml", "[2.8, 2.9, 3.0]", "[2.8, 2.9, .inf]", "virus.exposed_days"),
        ("town", "hamlet.yaml", "[2.8, 2.9, 3.0]", "[-2.8, 2.9, .nan]", "virus.exposed_days"),
        ("town", "hamlet.yaml", "multiplier: 1.5", "multiplier: .inf", "virus.delta.multiplier"),
        ("town", "hamlet.yaml", "multiplier: 1.5", "multiplier: 0", "virus.delta.multiplier"),
        ("town", "hamlet.yaml", "spread_sd: 0.05", "spread_sd: 0", "0.0 is not the spread of a probability"),
        ("town", "hamlet.yaml", "threshold: 5", "threshold: -1", "testing.threshold"),
        ("regulations", "hamlet_rules.yaml", "{low: 0, high: 0}", "50", "stages\\[2\\].largest_gathering\n.*low, high"),
        (
            "regulations",
            "hamlet_rules.yaml",
            "distancing: 0.8",
            "distancing: lots",
            "2\\].social_distancing\n.*a number",
        ),
        ("regulations", "hamlet_rules.yaml", "[Pub, School]", "School", "stages\\[2\\].locked\n.*a list of texts"),
        ("regulations", "hamlet_rules.yaml", "{stage: 1,", "{stage: 1, color: red,", "'color' .*\n.*stages\\[1\\]\n"),
        ("regulations", "hamlet_rules.yaml", "{stage: 1,", "{stage: 2,", "stage 2 is given twice"),
        ("regulations", "hamlet_rules.yaml", "stages:", "", "the file is not a mapping"),
    ],
)
def test_a_file_that_does_not_fit_is_named_with_its_mend(tmp_path, field, source, old, new, message):
    path = written(tmp_path, source, old, new)
    with pytest.raises(RhtoolError, match=message) as caught:
        make(2, **HAMLET | {field: path})
    assert path in str(caught.value) and "mend:" in str(caught.value)
    assert len(str(caught.value).splitlines()) == 3


def test_all_places_together_fit_their_numbers(tmp_path):
    text = (DATA / "hamlet.yaml").read_text()
    text = text.replace("number: 40", "number: 30000").replace("{number: 1, jobs: 10", "{number: 3000, jobs: 10")
    (tmp_path / "big.yaml").write_text(text)
    with pytest.raises(RhtoolError, match="33003 places in all"):
        make(**HAMLET | {"town": str(tmp_path / "big.yaml")})


def test_too_few_workers_are_mended_by_more_persons(tmp_path):
    path = written(tmp_path, "hamlet.yaml", "persons: 80", "persons: 6")
    with pytest.raises(RhtoolError, match=r"too few workers.*\n.*\n.*add persons"):
        make(200, **HAMLET | {"town": path})


def test_a_single_stage_is_a_regulation(tmp_path):
    (tmp_path / "one.yaml").write_text("\n".join((DATA / "hamlet_rules.yaml").read_text().splitlines()[:2]))
    rules = {"regulations": str(tmp_path / "one.yaml"), "variant": "corrected"}
    env = make(2, render_mode="rgb_array", **HAMLET | rules)
    for _ in range(3):
        observation, _, _, _, info = env.step(np.array([0, 2]))
    assert env.observation_space.contains(observation) and not info["stage"].any() and env.render()
    assert not env.step(env.base_action(env.observe()))[4]["lower_stage_reward"].any()


def test_unknown_names_are_refused():
    for changes, message in (
        ({"town": "austin_50"}, "did you mean 'austin_500'\\? Or give a path"),
        ({"town": "nowhere"}, "choose one of austin_500\\. Or give a path"),
        ({"regulations": "austen"}, "did you mean 'austin'"),
        ({"strategy": "S5"}, "S4"),
        ({"true_weights": [1.0]}, "give four"),
        ({"observed_days": 0}, "1 or more"),
        ({"population_seed": -1}, "choose 0 to"),
        ({"population_seed": 2**64}, "choose 0 to"),
        ({"true_weights": [10.0, math.inf, 0.1, 0.01]}, "true_weights"),
        ({"proxy_weights": [10.0, math.nan, 0.1, 0.01]}, "proxy_weights"),
    ):
        with pytest.raises(RhtoolError, match=message):
            make(**changes)


def test_the_picture_shows_what_happened():
    env = make(1, render_mode="rgb_array", **HAMLET)
    empty = env.render()[0]
    for _ in range(20):
        env.step([2])
    full = env.render()[0]
    assert full.shape == empty.shape == (540, 900, 3) and (full != empty).mean() > 0.01
    assert (env._curves[0, 19, -1], env._curves[0, 19, 2]) == (2, env.counts[0, 0, S_DEAD])
    assert (env.books[0, 0, S_NONE] <= 80) and np.isnan(env._curves[0, 20:]).all()


def test_the_picture_forgets_the_days_after_a_restored_one():
    env = make(1, render_mode="rgb_array", **HAMLET)
    for day in range(20):
        if day == 8:
            state = env.get_state()
        env.step([2])
    env.set_state(state)
    assert np.isfinite(env._curves[0, :8]).all() and np.isnan(env._curves[0, 8:]).all()
