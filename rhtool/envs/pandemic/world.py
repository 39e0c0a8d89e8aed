"""The state of B towns as arrays whose first axis is the lane: who lives there, and how they are.

N persons, L places, T types of place, R routines at most.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from rhtool.envs.pandemic.tables import S_NONE, UNKNOWN, Tables


class World(NamedTuple):
    """All of the state that kernels change. The first fields, to `chances`, are the population: they stay over episodes."""

    who: np.ndarray
    """int8 (B, N): MINOR, WORKER, RETIRED; in the order of nursing homes, minors, workers, other retired"""
    age: np.ndarray
    """int8 (B, N): years"""
    group: np.ndarray
    """int8 (B, N): class in the virus's tables, 2 x bracket of age + (1 at high risk)"""
    home: np.ndarray
    """int16 (B, N): where the person lives"""
    work: np.ndarray
    """int16 (B, N): where the person works or goes to school; -1: nowhere"""
    work_hours: np.ndarray
    """int32 (B, N): bit h is set if the person is there in hour h"""
    work_days: np.ndarray
    """int8 (B, N): bit d is set if the person is there on day d of the week"""
    own: np.ndarray
    """int32 (B, N): bit r is set if the person has the routine"""
    favourite: np.ndarray
    """int16 (B, N, R): where the person goes for the routine"""
    offset: np.ndarray
    """int8 (B, N, R): day on which the routine is due first"""
    stay: np.ndarray
    """int8 (B, N, R): hours that it nominally lasts"""
    parties: np.ndarray
    """int16 (B, homes, 12), or (B, 0, 12) where every home always gives one: days on which a home gives a party"""
    chances: np.ndarray
    """float64 (B, 2, 10, 10, 2): of a strain, a course, a class: probability per day of its first and second next course"""
    place: np.ndarray
    """int16 (B, N): where the person is; -1: nowhere (dead and gone)"""
    role: np.ndarray
    """int8 (B, N): ASSIGNED, VISITOR, PATIENT there"""
    present: np.ndarray
    """int16 (B, 3, L): persons in each role at each place"""
    due: np.ndarray
    """int32 (B, N): bit r is set if a routine with an interval is due"""
    started: np.ndarray
    """int32 (B, N): bit r is set if the routine has begun"""
    done: np.ndarray
    """int32 (B, N): bit r is set if it has ended"""
    goal: np.ndarray
    """int16 (B, N, 2): where the routine in progress outside working hours, and within them, takes place"""
    until: np.ndarray
    """int32 (B, N, 2): hour of the episode in which it ends"""
    course: np.ndarray
    """int8 (B, 2, N): the strains' courses, UNKNOWN before a strain starts"""
    caught: np.ndarray
    """int8 (B, 2, N): type of the place where the strain was caught since the last midnight; -1: it was not"""
    spread: np.ndarray
    """float32 (B, 2, N): probability that a contact with the person transmits the strain; 0 for who never had it"""
    summary: np.ndarray
    """int8 (B, N): S_CRITICAL … S_RECOVERED, over both strains"""
    hospital: np.ndarray
    """bool (B, N): counts as lying in hospital"""
    result: np.ndarray
    """int8 (B, 3, N): last test: overall, alpha, delta"""
    positive: np.ndarray
    """bool (B, 3, N): was ever tested positive"""
    books: np.ndarray
    """int32 (B, 3, 5): persons in each summary according to the tests: overall, alpha, delta"""
    counts: np.ndarray
    """int32 (B, 3, 5): persons in each summary in truth: overall, alpha, delta; zero before the first day"""
    infections: np.ndarray
    """int32 (B, T): infections since the episode began, by type of place"""
    multiplier: np.ndarray
    """float64 (B, 2): factor of transmission of each strain"""
    stage: np.ndarray
    """int16 (B,): the regulation in force"""
    day: np.ndarray
    """int32 (B,): days since the episode began"""
    delta_start: np.ndarray
    """int32 (B,): day after which delta starts"""
    history: np.ndarray
    """float32 (B, H, 13): the observation"""
    components: np.ndarray
    """float64 (B, 4): unweighted reward components of the last step"""
    strategy: np.ndarray
    """int8 (B,): the controller's plan in this episode"""
    entry: np.ndarray
    """int16 (B,): its entry in force"""
    fresh: np.ndarray
    """bool (B,): the lane was seeded and has no population of that seed yet"""


POPULATION = World._fields[: World._fields.index("place")]
"""the fields that stay over episodes"""


def allocate(tables: Tables, lanes: int, persons: int, snapshots: int, parties: int) -> World:
    """Arrays for `lanes` towns at the beginning of an episode, not yet populated; `parties` homes give parties on days of
    their own."""
    places, routines = len(tables.type_of), tables.leads_to.shape[1]
    b, n = lanes, persons

    def zeros(dtype, *shape) -> np.ndarray:
        return np.zeros((b, *shape), dtype)

    return World(
        who=zeros(np.int8, n),
        age=zeros(np.int8, n),
        group=zeros(np.int8, n),
        home=zeros(np.int16, n),
        work=zeros(np.int16, n),
        work_hours=zeros(np.int32, n),
        work_days=zeros(np.int8, n),
        own=zeros(np.int32, n),
        favourite=zeros(np.int16, n, routines),
        offset=zeros(np.int8, n, routines),
        stay=zeros(np.int8, n, routines),
        parties=zeros(np.int16, parties, 12),
        chances=zeros(np.float64, 2, 10, 10, 2),
        place=zeros(np.int16, n),
        role=zeros(np.int8, n),
        present=zeros(np.int16, 3, places),
        due=zeros(np.int32, n),
        started=zeros(np.int32, n),
        done=zeros(np.int32, n),
        goal=zeros(np.int16, n, 2),
        until=zeros(np.int32, n, 2),
        course=np.full((b, 2, n), UNKNOWN, np.int8),
        caught=np.full((b, 2, n), -1, np.int8),
        spread=zeros(np.float32, 2, n),
        summary=np.full((b, n), S_NONE, np.int8),
        hospital=zeros(bool, n),
        result=zeros(np.int8, 3, n),
        positive=zeros(bool, 3, n),
        books=np.tile(np.where(np.arange(5) == S_NONE, n, 0).astype(np.int32), (b, 3, 1)),
        counts=zeros(np.int32, 3, 5),
        infections=zeros(np.int32, len(tables.number)),
        multiplier=np.tile(tables.multiplier, (b, 1)),
        stage=zeros(np.int16),
        day=zeros(np.int32),
        delta_start=zeros(np.int32),
        history=zeros(np.float32, snapshots, 13),
        components=zeros(np.float64, 4),
        strategy=zeros(np.int8),
        entry=zeros(np.int16),
        fresh=np.ones(b, bool),
    )
