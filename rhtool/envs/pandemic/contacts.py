"""Who meets whom in an hour, and who catches what.

At a place with n possible pairs of a group (those who live or work there, those with visitors, visitors),

    k = max(least contacts, floor(clip(f, 0, 1) n)),  f ~ N(share, 0.01)

pairs are drawn with replacement; a pair drawn twice is one contact. A contact between somebody infectious and somebody
susceptible transmits with the infectious one's probability times the multiplier in force.

Pairs that cannot transmit anything change nothing, so only the others are drawn: their number among the k is binomial.
The original multiplies the probabilities of not being infected over the day and draws once at midnight; a draw per
contact, remembered until midnight, has the same distribution, and so has the place where the infection happened.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numba import njit

from rhtool.envs.pandemic.tables import (
    HOME,
    HOSPITALISED,
    INSIDE,
    PATIENT,
    PRE_ASYMPTOMATIC,
    SUSCEPTIBLE,
)
from rhtool.envs.rng import integers, normal, uniform

INFECTIOUS, OPEN_TO = np.array([1, 2], np.uint8), np.array([4, 8], np.uint8)
"""bits of a person's class: infectious with, and susceptible to, alpha and delta"""


class Scratch(NamedTuple):
    """Memory of the kernels between two days of one lane; nothing in it lasts."""

    klass: np.ndarray
    """uint8 (N,): bits of INFECTIOUS and OPEN_TO"""
    ill: np.ndarray
    """int16 (N,): the infectious; its first `size[0]` entries count"""
    well: np.ndarray
    """int16 (N,): persons susceptible to a strain and infectious with none; its first `size[1]` entries count"""
    size: np.ndarray
    """int64 (2,)"""
    head: np.ndarray
    """int16 (L, 4): last person of a place who is assigned and ill, assigned and well, visiting and ill, … well; or -1"""
    link: np.ndarray
    """int16 (N,): the person before in such a list; or -1"""
    marked: np.ndarray
    """bool (L,): somebody infectious is there"""
    touched: np.ndarray
    """int16 (L,): the marked places"""
    members: np.ndarray
    """int16 (2, N): assigned persons and visitors of a place: the ill, then the well"""
    drawn: np.ndarray
    """uint64 (words,): bit of each pair that was drawn already"""
    pairs: np.ndarray
    """int64 (pairs,): the pairs whose bits are set"""
    order: np.ndarray
    """int16 (N,): see `move.act`"""
    flags: np.ndarray
    """uint8 (N,): see `move.restless`"""
    duty: np.ndarray
    """int32 (N,): hours in which a person works today"""
    target: np.ndarray
    """int16 (N,): where a person can be in those hours: at work, or at home if work is locked"""
    opened: np.ndarray
    """bool (T,): see `move.opening`"""
    may: np.ndarray
    """int32 (K,): see `move.routines_of_the_hour`"""
    reachable: np.ndarray
    """int32 (K,)"""
    hosting: np.ndarray
    """int16 (H,): homes with an event today"""


def scratch(persons: int, places: int, types: int, homes: int) -> Scratch:
    """Memory for towns of that size."""
    return Scratch(
        klass=np.zeros(persons, np.uint8),
        ill=np.zeros(persons, np.int16),
        well=np.zeros(persons, np.int16),
        size=np.zeros(2, np.int64),
        head=np.full((places, 4), -1, np.int16),
        link=np.zeros(persons, np.int16),
        marked=np.zeros(places, bool),
        touched=np.zeros(places, np.int16),
        members=np.zeros((2, persons), np.int16),
        drawn=np.zeros(persons * persons // 64 + 1, np.uint64),
        pairs=np.zeros(persons * persons, np.int32),
        order=np.zeros(persons, np.int16),
        flags=np.zeros(persons, np.uint8),
        duty=np.zeros(persons, np.int32),
        target=np.zeros(persons, np.int16),
        opened=np.zeros(types, bool),
        may=np.zeros(3, np.int32),
        reachable=np.zeros(3, np.int32),
        hosting=np.arange(homes, dtype=np.int16),
    )


@njit(cache=True, error_model="numpy")
def classify(course, caught, memory):
    """Sort the persons of a lane by what contacts with them can do; `course`, `caught` int8 (2, N)."""
    ill = well = 0
    for p in range(course.shape[1]):
        klass = np.uint8(0)
        for strain in range(2):
            if PRE_ASYMPTOMATIC <= course[strain, p] <= HOSPITALISED:
                klass |= INFECTIOUS[strain]
            elif course[strain, p] == SUSCEPTIBLE and caught[strain, p] < 0:
                klass |= OPEN_TO[strain]
        memory.klass[p] = klass
        if klass & 3:
            memory.ill[ill] = p
            ill += 1
        elif klass:
            memory.well[well] = p
            well += 1
    memory.size[0], memory.size[1] = ill, well


@njit(cache=True, error_model="numpy")
def binomial(s, k, p):
    """Successes among k draws of probability p."""
    if p >= 1.0:
        return k
    count = 0
    if k <= 4 or p > 0.2:
        for _ in range(k):
            count += uniform(s) < p
        return count
    # The gaps between successes are geometric.
    log_q, at = math.log1p(-p), 0.0
    while True:
        at += 1.0 + math.floor(math.log(1.0 - uniform(s)) / log_q)
        if at > k:
            return count
        count += 1


@njit(cache=True, error_model="numpy")
def expose(s, a, b, where, hides, klass, spread, multiplier, caught):
    """A contact between persons a and b at a place of type `where`."""
    for strain in range(2):
        infectious, open_to = INFECTIOUS[strain], OPEN_TO[strain]
        if klass[a] & klass[b] & infectious:
            if hides:
                return
            continue
        source, target = (a, b) if klass[a] & infectious else (b, a)
        if (
            klass[source] & infectious
            and klass[target] & open_to
            and uniform(s) < spread[strain, source] * multiplier[strain]
        ):
            caught[strain, target] = where
            klass[target] &= ~open_to


@njit(**INSIDE)
def meet(s, tables, hides, world, i, memory):
    """The contacts of one hour in lane `i`; `hides` is the quirk `alpha_hides_delta`."""
    place, role, present = world.place[i], world.role[i], world.present[i]
    spread, multiplier, caught = world.spread[i], world.multiplier[i], world.caught[i]
    klass, ill, well, head, link = memory.klass, memory.ill, memory.well, memory.head, memory.link
    touched, members, drawn, pairs = memory.touched, memory.members, memory.drawn, memory.pairs
    # By the clock: no person stands for the others, who may have died before the second strain started. In the hour before
    # it starts nobody is open to it, so that nothing comes of a pair drawn in vain.
    both = world.day[i] > world.delta_start[i]
    if memory.size[1] == 0 and not both:
        return
    places = 0
    for k in range(memory.size[0]):
        p = ill[k]
        if role[p] != PATIENT and place[p] >= 0:
            x = 2 * role[p]
            if not memory.marked[place[p]]:
                memory.marked[place[p]] = True
                touched[places] = place[p]
                places += 1
            link[p] = head[place[p], x]
            head[place[p], x] = p
    if places == 0:
        return
    for k in range(memory.size[1]):
        p = well[k]
        if place[p] >= 0 and memory.marked[place[p]] and role[p] != PATIENT and klass[p]:
            x = 2 * role[p] + 1
            link[p] = head[place[p], x]
            head[place[p], x] = p
    kept = 1.0 - tables.avoided[world.stage[i]]
    counts = np.empty((2, 2), np.int64)
    for k in range(places):
        here = touched[k]
        memory.marked[here] = False
        for x in range(4):
            group, size = x // 2, 0 if x % 2 == 0 else counts[x // 2, 0]
            p = head[here, x]
            while p >= 0:
                members[group, size] = p
                size += 1
                p = link[p]
            counts[group, x % 2] = size
            head[here, x] = -1
        t = tables.type_of[here]
        for g in range(3):
            one, two = g // 2, (g + 1) // 2
            ill1, ill2 = counts[one, 0], counts[two, 0]
            well1, well2 = counts[one, 1] - ill1, counts[two, 1] - ill2
            size1, size2 = present[one, here], present[two, here]
            if one == two:
                n, mixed, back, same = size1 * (size1 - 1) // 2, ill1 * well1, 0, ill1 * (ill1 - 1) // 2
            else:
                n, mixed, back, same = size1 * size2, ill1 * well2, well1 * ill2, ill1 * ill2
            if not both:
                same = 0
            if mixed + back + same == 0:
                continue
            share = tables.share[t, g] * (1.0 if tables.kind[t] == HOME else kept) + 0.01 * normal(s)
            contacts = max(tables.at_least[t, g], int(min(1.0, max(0.0, share)) * n))
            relevant = mixed + back + same
            hits = binomial(s, contacts, relevant / n)
            kept_pairs = 0
            for _ in range(hits):
                x = integers(s, relevant) if relevant > 1 else 0
                if x < mixed:
                    a, b = x // well2, ill2 + x % well2
                elif x < mixed + back:
                    x -= mixed
                    a, b = ill1 + x // ill2, x % ill2
                elif one == two:
                    a, b = integers(s, ill1), integers(s, ill1 - 1)
                    if b >= a:
                        b += 1
                    else:
                        a, b = b, a
                else:
                    x -= mixed + back
                    a, b = x // ill2, x % ill2
                code = a * (ill2 + well2) + b
                word, bit = code >> 6, np.uint64(1) << np.uint64(code & 63)
                if drawn[word] & bit:
                    continue
                if hits > 1:
                    drawn[word] |= bit
                    pairs[kept_pairs] = word
                    kept_pairs += 1
                expose(s, members[one, a], members[two, b], t, hides, klass, spread, multiplier, caught)
            for x in range(kept_pairs):
                drawn[pairs[x]] = np.uint64(0)
