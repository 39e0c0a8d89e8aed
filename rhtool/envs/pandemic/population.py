"""Who lives in a town, and the rates of its virus, drawn by a compiled kernel.

Ages follow the USA roughly: equally likely up to 60, then falling linearly to 5 % of that at 100, each year's weight
times N(1, 0.05). Up to 18 is a minor, up to 65 a worker, above retired. A share of the retired lives in nursing homes in
ones and twos; minors live in further homes in ones to threes, one worker with each group; the other retired and workers
are dealt in turn over the empty homes and those homes with minors that have no single parent, in shuffled order.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from rhtool.envs.pandemic.tables import (
    ASYMPTOMATIC,
    EXPOSED,
    HOME,
    HOSPITAL,
    HOSPITALISED,
    INSIDE,
    MINOR,
    NEEDS_HOSPITAL,
    PRE_ASYMPTOMATIC,
    PRE_SYMPTOMATIC,
    RETIRED,
    SCHOOL,
    SYMPTOMATIC,
    WORKER,
)
from rhtool.envs.rng import integers, normal, uniform

GOOD, TOO_FEW_HOMES, TOO_FEW_WORKERS = range(3)
"""what `populate` returns"""
BRACKETS = (4, 17, 49, 64)
"""oldest of each bracket of age but the last"""
PARTIES = 12
"""days a year on which a home gives a party"""


@njit(**INSIDE)
def _shuffle(s, x):
    for i in range(len(x) - 1, 0, -1):
        j = integers(s, i + 1)
        x[i], x[j] = x[j], x[i]


@njit(**INSIDE)
def _triangular(s, low, mode, high):
    if high <= low:
        return low
    u, turn = uniform(s), (mode - low) / (high - low)
    if u < turn:
        return low + math.sqrt(u * (high - low) * (mode - low))
    return high - math.sqrt((1.0 - u) * (high - low) * (high - mode))


@njit(**INSIDE)
def _ages(s, count):
    """int16 (count,)."""
    up_to = np.empty(99)
    total = 0.0
    for i in range(99):
        label = i + 2  # the original weighs the age i + 1 as if it were i + 2
        weight = normal(s) * 0.05 + 1.0
        if label >= 60:
            weight *= 1.0 - (label - 60) * 0.95 / 40.0
        total += weight
        up_to[i] = total
    ages = np.empty(count, np.int16)
    for p in range(count):
        u, low, high = uniform(s) * total, 0, 98
        while low < high:
            middle = (low + high) // 2
            if u < up_to[middle]:
                high = middle
            else:
                low = middle + 1
        ages[p] = low + 1
    return ages


@njit(**INSIDE)
def _chances(s, days, constants, by_class, out):
    """Draw the rates of one strain into `out`, float64 (10, 10, 2)."""
    symptomatic, pre, need, recovery, death = constants
    exposed = 1.0 / _triangular(s, days[0, 0], days[0, 1], days[0, 2])
    asymptomatic = 1.0 / _triangular(s, days[1, 0], days[1, 1], days[1, 2])
    r = 1.0 / _triangular(s, days[2, 0], days[2, 1], days[2, 2])
    cured = 1.0 / _triangular(s, days[3, 0], days[3, 1], days[3, 2])
    dying = 1.0 / _triangular(s, days[4, 0], days[4, 1], days[4, 2])
    for c in range(10):
        y, untreated, treated = by_class[0, c], by_class[1, c], by_class[2, c]
        share = r * y / (need + (r - need) * y)
        out[EXPOSED, c, 0], out[EXPOSED, c, 1] = exposed * (1.0 - symptomatic), exposed * symptomatic
        out[PRE_ASYMPTOMATIC, c, 0] = out[PRE_SYMPTOMATIC, c, 0] = pre
        out[ASYMPTOMATIC, c, 0] = asymptomatic
        out[SYMPTOMATIC, c, 0], out[SYMPTOMATIC, c, 1] = need * share, r * (1.0 - share)
        out[NEEDS_HOSPITAL, c, 0], out[NEEDS_HOSPITAL, c, 1] = (1.0 - untreated) * recovery, untreated * death
        out[HOSPITALISED, c, 0], out[HOSPITALISED, c, 1] = (1.0 - treated) * cured, treated * dying


@njit(**INSIDE)
def _homes(s, tables, ages, who, age, home):
    """Order the persons, give each a home. Returns GOOD, TOO_FEW_HOMES or TOO_FEW_WORKERS."""
    n = len(ages)
    sorted_ages, size = np.empty((3, n), np.int16), np.zeros(3, np.int64)
    for p in range(n):
        k = MINOR if ages[p] <= 18 else WORKER if ages[p] <= 65 else RETIRED
        sorted_ages[k, size[k]] = ages[p]
        size[k] += 1
    minors, workers, retired = sorted_ages[MINOR], sorted_ages[WORKER], sorted_ages[RETIRED]
    t = 0
    while tables.kind[t] != HOME:
        t += 1
    homes = np.empty(tables.number[t], np.int16)
    for k in range(len(homes)):
        homes[k] = tables.first[t] + k
    _shuffle(s, homes)
    p = used = 0
    nursed = math.ceil(size[RETIRED] * tables.nursing)
    while p < nursed:
        if used == len(homes):
            return TOO_FEW_HOMES
        for _ in range(min(1 + integers(s, 2), nursed - p)):
            who[p], age[p], home[p] = RETIRED, retired[p], homes[used]
            p += 1
        used += 1
    first, given = used, 0
    while given < size[MINOR]:
        if used == len(homes):
            return TOO_FEW_HOMES
        for _ in range(min(1 + integers(s, 3), size[MINOR] - given)):
            who[p], age[p], home[p] = MINOR, minors[given], homes[used]
            p += 1
            given += 1
        used += 1
    families = used - first
    if size[WORKER] < families:
        return TOO_FEW_WORKERS
    for f in range(families):
        who[p], age[p], home[p] = WORKER, workers[f], homes[first + f]
        p += 1
    # The homes with a single parent are the first ones, so the rest is what follows them.
    rest = homes[first + int(families * tables.single_parents) :]
    if len(rest) == 0 and p < n:
        return TOO_FEW_HOMES
    _shuffle(s, rest)
    # The retired are dealt first but come last in the order of persons.
    others = size[RETIRED] - nursed
    for w in range(families, size[WORKER]):
        who[p], age[p], home[p] = WORKER, workers[w], rest[(others + w - families) % len(rest)]
        p += 1
    for o in range(others):
        who[p], age[p], home[p] = RETIRED, retired[nursed + o], rest[o % len(rest)]
        p += 1
    return GOOD


@njit(**INSIDE)
def _one_of(s, tables, t):
    return tables.first[t] + integers(s, tables.number[t])


@njit(cache=True, nogil=True, error_model="numpy")
def populate(mask, tables, uniform_jobs, days, constants, by_class, rng, world):
    """Draw the population of the lanes of `mask` (bool (B,)) into `world`. Returns GOOD or the first failure."""
    types, lanes, n = len(tables.number), world.who.shape[0], world.who.shape[1]
    for i in range(lanes):
        if not mask[i]:
            continue
        s, who, age = rng[i], world.who[i], world.age[i]
        verdict = _homes(s, tables, _ages(s, n), who, age, world.home[i])
        if verdict != GOOD:
            return verdict
        vacancies = np.empty(types, np.int64)
        schools = 0
        for t in range(types):
            vacancies[t] = tables.jobs[t]
            if tables.kind[t] == SCHOOL:
                schools += tables.number[t]
            if tables.kind[t] == HOME:
                vacancies[t] = 0
        for p in range(n):
            bracket = 0
            while bracket < len(BRACKETS) and age[p] > BRACKETS[bracket]:
                bracket += 1
            world.group[i, p] = 2 * bracket + (uniform(s) < age[p] / 101.0)
            work, hours, on = -1, 0, 0
            if who[p] == MINOR and schools > 0:
                k = integers(s, schools)
                for t in range(types):
                    if tables.kind[t] == SCHOOL and work < 0:
                        if k < tables.number[t]:
                            work, hours, on = tables.first[t] + k, tables.attendance[t], 31
                        k -= tables.number[t]
            elif who[p] == WORKER:
                hiring = 0
                for t in range(types):
                    hiring += vacancies[t] > 0
                if hiring > 0:
                    k, t = integers(s, hiring), -1
                    while k >= 0:
                        t += 1
                        k -= vacancies[t] > 0
                    work, hours, on = _one_of(s, tables, t), tables.hours[t], tables.days[t]
                    if not uniform_jobs:
                        vacancies[t] -= 1
                    if tables.kind[t] == HOSPITAL:
                        # A night shift from 22 to 6 h, or nine hours from a start between 7 and 12 h.
                        hours = (3 << 22) | 127 if uniform(s) < 0.5 else 511 << (7 + integers(s, 6))
                        on = 63 << integers(s, 2)
            world.work[i, p], world.work_hours[i, p], world.work_days[i, p] = work, hours, on
            world.own[i, p] = 0
            for r in range(tables.routines[who[p]]):
                if age[p] >= tables.min_age[who[p], r]:
                    world.own[i, p] |= 1 << r
                shortest, longest = tables.stay[who[p], r, 0], tables.stay[who[p], r, 1]
                world.stay[i, p, r] = shortest + integers(s, longest - shortest + 1)
                if tables.leads_to[who[p], r] >= 0:
                    world.favourite[i, p, r] = _one_of(s, tables, tables.leads_to[who[p], r])
                if tables.every[who[p], r] > 0:
                    world.offset[i, p, r] = integers(s, tables.every[who[p], r])
        for strain in range(2):
            _chances(s, days, constants, by_class, world.chances[i, strain])
        for home in range(world.parties.shape[1]):
            for k in range(PARTIES):
                world.parties[i, home, k] = integers(s, 365)
    return GOOD
