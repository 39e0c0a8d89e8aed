"""Midnight: both strains take their course in everybody, and people are tested."""

from __future__ import annotations

import numpy as np
from numba import njit

from rhtool.envs.pandemic.tables import (
    ASYMPTOMATIC,
    DECEASED,
    EXPOSED,
    HOSPITALISED,
    INSIDE,
    NEEDS_HOSPITAL,
    NEGATIVE,
    POSITIVE,
    PRE_ASYMPTOMATIC,
    PRE_SYMPTOMATIC,
    RECOVERED,
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
)
from rhtool.envs.rng import normal, uniform

NEXT = np.array(
    [
        [SUSCEPTIBLE, SUSCEPTIBLE],
        [PRE_ASYMPTOMATIC, PRE_SYMPTOMATIC],
        [ASYMPTOMATIC, ASYMPTOMATIC],
        [SYMPTOMATIC, SYMPTOMATIC],
        [RECOVERED, RECOVERED],
        [NEEDS_HOSPITAL, RECOVERED],
        [RECOVERED, DECEASED],
        [RECOVERED, DECEASED],
        [RECOVERED, RECOVERED],
        [DECEASED, DECEASED],
    ],
    np.int8,
)
"""first and second next course of each course"""
SUMMARY = np.array(
    [
        S_NONE,
        S_NONE,
        S_INFECTED,
        S_INFECTED,
        S_INFECTED,
        S_INFECTED,
        S_CRITICAL,
        S_CRITICAL,
        S_RECOVERED,
        S_DEAD,
    ],
    np.int8,
)
"""summary of each course"""


@njit(cache=True, error_model="numpy")
def overall(a, b):
    """The summary of a person in whom the strains' summaries are a and b."""
    if a == b:
        return a
    for worst in (S_DEAD, S_CRITICAL, S_INFECTED):
        if a == worst or b == worst:
            return worst
    return S_RECOVERED


@njit(cache=True, error_model="numpy")
def infectiousness(s, mean, sd):
    """A normal number truncated to [0, 1]."""
    while True:
        value = mean + sd * normal(s)
        if 0.0 <= value <= 1.0:
            return value


@njit(cache=True, error_model="numpy")
def proceed(s, course, hospital, chances):
    """The next day's course after `course`; `chances` float64 (10, 2): of this class, by course."""
    if course == NEEDS_HOSPITAL and hospital:
        return HOSPITALISED
    first, second = chances[course, 0], chances[course, 1]
    if first + second == 0.0:
        return course
    u = uniform(s)
    if u < first:
        return NEXT[course, 0]
    return NEXT[course, 1] if u < first + second else course


@njit(cache=True, error_model="numpy")
def is_tested(s, tests, last, hospital, alpha, delta):
    """Whether a person, not dead, is tested today: `last` result, courses of the strains; see `Tables.tests`."""
    if hospital:
        return True
    chance = tests[3] if last >= POSITIVE else 0.0
    for course in (alpha, delta):
        if SYMPTOMATIC <= course <= HOSPITALISED:
            chance = max(chance, tests[1] if course == SYMPTOMATIC else tests[2])
        else:
            chance = max(chance, tests[0])
    return uniform(s) < chance


@njit(cache=True, error_model="numpy")
def outcome(s, tests, course):
    """The result of a test for one strain."""
    ill = PRE_ASYMPTOMATIC <= course <= HOSPITALISED
    if uniform(s) < (tests[5] if ill else tests[4]):
        ill = not ill
    if not ill:
        return NEGATIVE
    return T_CRITICAL if NEEDS_HOSPITAL <= course <= HOSPITALISED else POSITIVE


@njit(cache=True, error_model="numpy")
def book(quirk, new, last, was_positive, books):
    """Move a person with a new result in `books`, int32 (5,)."""
    if new == last:
        return
    to = S_NONE if new <= NEGATIVE else S_INFECTED if new == POSITIVE else S_CRITICAL if new == T_CRITICAL else S_DEAD
    out = (
        S_NONE if last <= NEGATIVE else S_INFECTED if last == POSITIVE else S_CRITICAL if last == T_CRITICAL else S_DEAD
    )
    if quirk:
        # Only a negative test right after a positive one counts as recovered, and nobody leaves from there.
        if new == NEGATIVE and last >= POSITIVE:
            to = S_RECOVERED
        if out == S_NONE and books[S_NONE] == 0:
            out = S_RECOVERED
    else:
        if to == S_NONE and was_positive:
            to = S_RECOVERED
        if out == S_NONE and was_positive:
            out = S_RECOVERED
    books[to] += 1
    books[out] -= 1


@njit(**INSIDE)
def midnight(s, tables, quirks, world, i):
    """Advance the strains in lane `i`, count, and test."""
    course, caught, spread = world.course[i], world.caught[i], world.spread[i]
    summary, hospital, result, positive = world.summary[i], world.hospital[i], world.result[i], world.positive[i]
    books, counts, infections = world.books[i], world.counts[i], world.infections[i]
    chances, group = world.chances[i], world.group[i]
    strains = 2 if world.day[i] > world.delta_start[i] else 1
    tests = tables.tests
    for x in range(3):
        for y in range(5):
            counts[x, y] = 0
    news, seeds = np.empty(3, np.int8), np.zeros(2, np.int64)
    for p in range(len(summary)):
        if not quirks.invisible_deaths and summary[p] == S_DEAD:
            for strain in range(2):
                counts[1 + strain, S_NONE if course[strain, p] < 0 else SUMMARY[course[strain, p]]] += 1
            counts[0, S_DEAD] += 1
            continue
        for strain in range(strains):
            now = course[strain, p]
            if now == UNKNOWN:
                gone = not quirks.invisible_deaths and course[0, p] == DECEASED
                now = EXPOSED if seeds[strain] < tables.initial and not gone else SUSCEPTIBLE
                if now == EXPOSED:
                    seeds[strain] += 1
                    spread[strain, p] = infectiousness(s, tables.spread[strain, 0], tables.spread[strain, 1])
            if now == SUSCEPTIBLE:
                if caught[strain, p] >= 0:
                    infections[caught[strain, p]] += 1
                    spread[strain, p] = infectiousness(s, tables.spread[strain, 0], tables.spread[strain, 1])
                    now = EXPOSED
            else:
                in_bed = hospital[p] and (strain == 0 or not quirks.alpha_only_hospital)
                now = proceed(s, now, in_bed, chances[strain, :, group[p]])
            course[strain, p] = now
            caught[strain, p] = -1
        alpha, delta = course[0, p], course[1, p]
        a, b = SUMMARY[alpha], S_NONE if delta < 0 else SUMMARY[delta]
        state = overall(a, b)
        summary[p] = state
        counts[0, state] += 1
        counts[1, a] += 1
        counts[2, b] += 1
        dead = state == S_DEAD
        if not dead and not is_tested(s, tests, result[0, p], hospital[p], alpha, delta):
            continue
        news[1], news[2] = outcome(s, tests, alpha), outcome(s, tests, delta)
        if not quirks.invisible_deaths:
            if a == S_DEAD:
                news[1] = T_DEAD
            if b == S_DEAD:
                news[2] = T_DEAD
        news[0] = max(news[1], news[2])
        for x in range(3):
            book(quirks.testing_bookkeeping, news[x], result[x, p], positive[x, p], books[x])
            result[x, p] = news[x]
            positive[x, p] = positive[x, p] or POSITIVE <= news[x] <= T_CRITICAL
        if dead and not quirks.invisible_deaths:
            world.present[i, world.role[i, p], world.place[i, p]] -= 1
            world.place[i, p] = -1
            hospital[p] = False
