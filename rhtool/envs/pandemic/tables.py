"""A town and its regulations as the arrays that the kernels read, and the codes that they use.

T types of place, L places (those of a type are neighbours), S stages, K = 3 kinds of person, R routines at most.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from rhtool.envs.pandemic.regulation import Stage
from rhtool.envs.pandemic.town import KINDS, STARTS, WHO, Town

HOME, SCHOOL, HOSPITAL, BUSINESS = range(len(KINDS))
MINOR, WORKER, RETIRED = range(len(WHO))
ANYWHERE, AT_HOME, AT_WORK = range(len(STARTS))
SOCIAL = -1
"""the place of a routine that leads to somebody's home"""

ASSIGNED, VISITOR, PATIENT = range(3)
"""what a person is at a place: lives or works there, visits it, lies there"""

(
    SUSCEPTIBLE,
    EXPOSED,
    PRE_ASYMPTOMATIC,
    PRE_SYMPTOMATIC,
    ASYMPTOMATIC,
    SYMPTOMATIC,
    NEEDS_HOSPITAL,
    HOSPITALISED,
    RECOVERED,
    DECEASED,
) = range(10)
"""the course of a strain in a person"""
UNKNOWN = -1
"""the course of a strain that has not started"""

COURSES = (
    "susceptible",
    "exposed",
    "pre_asymptomatic",
    "pre_symptomatic",
    "asymptomatic",
    "symptomatic",
    "needs_hospital",
    "hospitalised",
    "recovered",
    "deceased",
)
"""names of the courses"""

S_CRITICAL, S_DEAD, S_INFECTED, S_NONE, S_RECOVERED = range(5)
"""summaries of a person's state, in the order of the observation"""

UNTESTED, NEGATIVE, POSITIVE, T_CRITICAL, T_DEAD = range(5)
"""results of a test"""

INSIDE = {"cache": True, "error_model": "numpy", "no_cpython_wrapper": True, "no_cfunc_wrapper": True}
"""options of kernels that only other kernels call: without the way in from Python, whose compilation takes as long as that
of the kernel where the arguments are tuples of tens of arrays"""

EVERY_HOUR, EVERY_DAY = (1 << 24) - 1, (1 << 7) - 1


class Tables(NamedTuple):
    """What does not change: the town, its regulations, the tests."""

    type_of: np.ndarray
    """int8 (L,): type of a place"""
    first: np.ndarray
    """int16 (T,): first place of a type"""
    number: np.ndarray
    """int16 (T,): places of a type"""
    kind: np.ndarray
    """int8 (T,): HOME, SCHOOL, HOSPITAL, BUSINESS"""
    jobs: np.ndarray
    """int32 (T,): vacancies of a type"""
    visitors: np.ndarray
    """int32 (T,): most visitors of a place"""
    patients: np.ndarray
    """int32 (T,): beds of a place"""
    hours: np.ndarray
    """int32 (T,): bit h is set if it is open in hour h"""
    days: np.ndarray
    """int32 (T,): bit d is set if it is open on day d of the week"""
    ages: np.ndarray
    """int32 (T, 2): youngest and oldest who may enter"""
    attendance: np.ndarray
    """int32 (T,): bit h is set if pupils are there in hour h"""
    at_least: np.ndarray
    """int32 (T, 3): least contacts among assigned persons, between them and visitors, among visitors"""
    share: np.ndarray
    """float64 (T, 3): share of pairs in contact, for the same groups"""
    routines: np.ndarray
    """int64 (K,): routines of a kind of person"""
    leads_to: np.ndarray
    """int8 (K, R): type of place of a routine, or SOCIAL"""
    start: np.ndarray
    """int8 (K, R): ANYWHERE, AT_HOME, AT_WORK"""
    every: np.ndarray
    """int16 (K, R): days from one to the next; 0: whenever it may"""
    when_hours: np.ndarray
    """int32 (K, R): bit h is set if it may begin in hour h"""
    when_days: np.ndarray
    """int32 (K, R): bit d is set if it may begin on day d of the week"""
    explore: np.ndarray
    """float64 (K, R): probability of another place than the favourite"""
    again: np.ndarray
    """int16 (K, R): it can come up again on days that this divides"""
    stay: np.ndarray
    """int8 (K, R, 2): shortest and longest stay"""
    min_age: np.ndarray
    """int16 (K, R): youngest person who does it"""
    working: np.ndarray
    """int32 (K,): bit r is set if the routine belongs to working hours"""
    locked: np.ndarray
    """bool (S, T): closed by the stage"""
    avoided: np.ndarray
    """float64 (S,): share of contacts that the stage avoids"""
    gathering: np.ndarray
    """int32 (S, 2): size of gatherings that persons at low and high risk stay away from; -1: none"""
    sick_home: np.ndarray
    """bool (S,): who is tested positive goes home"""
    protection: np.ndarray
    """float64 (S,): factor of transmission by hygiene and masks"""
    severity: np.ndarray
    """float64 (max(S, 3),): what a stage costs in the reward for low stages, (k / (S - 1))^1.5"""
    compliance: float
    """probability of keeping to a regulation when it matters"""
    routine_start: float
    """probability that a due routine begins"""
    tests: np.ndarray
    """float64 (6,): probabilities: spontaneous, symptomatic, critical, retest, false positive, false negative"""
    threshold: int
    """persons tested infected from which the flag is raised"""
    initial: int
    """persons exposed when a strain starts"""
    spread: np.ndarray
    """float64 (2, 2): mean and standard deviation of the probability of transmission, alpha and delta"""
    multiplier: np.ndarray
    """float64 (2,): factor of that probability where no regulation ever held"""
    delta_start: np.ndarray
    """int64 (2,): first and last day after which delta may start"""
    nursing: float
    """share of the retired in nursing homes"""
    single_parents: float
    """share of the homes with minors that have one adult"""


class Quirks(NamedTuple):
    """The quirks that kernels know, each on or off (see the fields of `Pandemic`)."""

    compounding_multipliers: bool
    lower_stage_by_action: bool
    sampling_with_replacement: bool
    social_events_always: bool
    uniform_jobs: bool
    short_visits: bool
    sick_go_out: bool
    guests_uncounted: bool
    alpha_hides_delta: bool
    invisible_deaths: bool
    alpha_only_hospital: bool
    testing_bookkeeping: bool
    schedule_persists: bool


def bitmask(ranges: Iterable[Iterable[int]] | None, everything: int) -> int:
    """Bits first to last of each range; all of them for None."""
    if ranges is None:
        return everything
    return sum(1 << bit for bit in {b for first, last in ranges for b in range(first, last + 1)})


def day_mask(days: Iterable[int] | None) -> int:
    """Bits of the days of the week; all of them for None."""
    return bitmask(None if days is None else [[day, day] for day in days], EVERY_DAY)


def build(town: Town, stages: list[Stage]) -> Tables:
    """The arrays of a town under regulations."""
    names, places = list(town.places), list(town.places.values())
    number = np.array([place.number for place in places], np.int16)
    most = np.iinfo(np.int32).max
    mine = [[routine for routine in town.routines if routine.who == who] for who in WHO]
    columns = max(1, *map(len, mine))

    def of_places(value, dtype=np.int32) -> np.ndarray:
        return np.array([value(place) for place in places], dtype)

    def of_routines(value, dtype=np.int32, shape=()) -> np.ndarray:
        out = np.zeros((len(WHO), columns, *shape), dtype)
        for k, routines in enumerate(mine):
            for r, routine in enumerate(routines):
                out[k, r] = value(routine)
        return out

    def gathering(size: int | None) -> int:
        return -1 if size is None else size

    virus, testing = town.virus, town.testing
    return Tables(
        type_of=np.repeat(np.arange(len(places), dtype=np.int8), number),
        first=(np.cumsum(number) - number).astype(np.int16),
        number=number,
        kind=of_places(lambda p: KINDS.index(p.kind), np.int8),
        jobs=of_places(lambda p: p.jobs * p.number),
        visitors=of_places(lambda p: most if p.visitors is None else p.visitors),
        patients=of_places(lambda p: p.patients),
        hours=of_places(lambda p: bitmask(p.hours, EVERY_HOUR)),
        days=of_places(lambda p: day_mask(p.days)),
        ages=of_places(lambda p: [0, most] if p.ages is None else p.ages),
        attendance=of_places(lambda p: bitmask(p.attendance or [], EVERY_HOUR)),
        at_least=of_places(lambda p: p.at_least),
        share=of_places(lambda p: p.share, np.float64),
        routines=np.array([len(routines) for routines in mine]),
        leads_to=of_routines(lambda r: SOCIAL if r.place == "social" else names.index(r.place), np.int8),
        start=of_routines(lambda r: STARTS.index(r.start), np.int8),
        every=of_routines(lambda r: r.every or 0, np.int16),
        when_hours=of_routines(lambda r: bitmask(r.hours and [r.hours], EVERY_HOUR)),
        when_days=of_routines(lambda r: day_mask(r.days)),
        explore=of_routines(lambda r: r.explore, np.float64),
        again=of_routines(lambda r: r.again, np.int16),
        stay=of_routines(lambda r: r.stay, np.int8, (2,)),
        min_age=of_routines(lambda r: r.min_age, np.int16),
        working=np.array([sum(1 << r for r, x in enumerate(rs) if x.start == "work") for rs in mine], np.int32),
        locked=np.array([[name in stage.locked for name in names] for stage in stages]),
        avoided=np.array([stage.social_distancing for stage in stages]),
        gathering=np.array(
            [[gathering(s.largest_gathering.low), gathering(s.largest_gathering.high)] for s in stages], np.int32
        ),
        sick_home=np.array([stage.stay_home_if_sick for stage in stages]),
        protection=np.array([(0.8 if s.hygiene else 1.0) * (0.6 if s.masks else 1.0) for s in stages]),
        severity=(np.arange(max(len(stages), 3)) / max(len(stages) - 1, 1)) ** 1.5,
        compliance=float(town.compliance),
        routine_start=float(town.routine_start),
        tests=np.array(
            [
                testing.spontaneous,
                testing.symptomatic,
                testing.critical,
                testing.retest,
                testing.false_positive,
                testing.false_negative,
            ]
        ),
        threshold=int(testing.threshold),
        initial=int(virus.initial),
        spread=np.array([[s.spread, s.spread_sd] for s in (virus.alpha, virus.delta)]),
        multiplier=np.array([s.multiplier for s in (virus.alpha, virus.delta)]),
        delta_start=np.array(virus.delta_start),
        nursing=float(town.nursing),
        single_parents=float(town.single_parents),
    )


def rates(town: Town) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What the courses' chances are computed from: triangular means float64 (5, 3) (exposed, asymptomatic, symptomatic,
    hospital, hospital death; days); constants float64 (5,) (symptomatic share, 1 / pre-symptomatic days, rate of needing
    a hospital, untreated recovery, untreated death); by class float64 (3, 10) (needs a hospital, dies untreated, dies
    treated). A class is 2 x bracket of age + (1 at high risk)."""
    v = town.virus
    days = [v.exposed_days, v.asymptomatic_days, v.symptomatic_days, v.hospital_days, v.hospital_death_days]
    constants = [v.symptomatic, 1 / v.pre_days, v.hospital_need_rate, v.untreated_recovery, v.untreated_death]
    need = np.stack([v.need_low, v.need_high], 1).ravel() / 100
    by_class = np.stack([need, np.repeat(v.death_untreated, 2), np.repeat(v.death_treated, 2)])
    return np.array(days, float), np.array(constants, float), by_class
