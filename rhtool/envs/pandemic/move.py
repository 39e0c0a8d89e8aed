"""One hour of everybody's day: persons act one after the other and go to work, shops, parties, hospital or home.

Only what can matter is drawn: a person who is where they should be, is not ill, and has no routine that could begin now
is left alone, which changes no distribution.
"""

from __future__ import annotations

from numba import njit

from rhtool.envs.pandemic.contacts import binomial
from rhtool.envs.pandemic.tables import (
    ANYWHERE,
    ASSIGNED,
    AT_HOME,
    HOME,
    HOSPITAL,
    INSIDE,
    NEGATIVE,
    PATIENT,
    POSITIVE,
    S_CRITICAL,
    SOCIAL,
    T_CRITICAL,
    VISITOR,
)
from rhtool.envs.rng import integers, uniform

PARTY_HOURS = (15, 19)
"""first and last hour of a party"""


@njit(cache=True, error_model="numpy")
def opening(tables, stage, hour, weekday, opened):
    """Write which types of place are open into `opened`, bool (T,)."""
    for t in range(len(tables.number)):
        opened[t] = (
            (tables.hours[t] >> hour) & 1 and (tables.days[t] >> weekday) & 1 and not tables.locked[stage, t]
        ) or tables.kind[t] == HOME


@njit(cache=True, error_model="numpy")
def routines_of_the_hour(tables, hour, weekday, opened, parties, may, reachable):
    """Write into int32 (K,) the routines that lead somewhere open: `may` those without an interval that can begin now,
    `reachable` those with one."""
    for k in range(len(may)):
        may[k] = reachable[k] = 0
        for r in range(tables.routines[k]):
            t = tables.leads_to[k, r]
            if (t == SOCIAL and parties > 0) or (t != SOCIAL and opened[t]):
                if tables.every[k, r] > 0:
                    reachable[k] |= 1 << r
                elif (tables.when_hours[k, r] >> hour) & 1 and (tables.when_days[k, r] >> weekday) & 1:
                    may[k] |= 1 << r


@njit(**INSIDE)
def admitted(t, to, mine, age, critical, kind, opened, ages, visitors, patients, present):
    """The role in which somebody may enter the place `to` of type `t`, or -1; `mine`: lives or works there."""
    if critical and kind[t] == HOSPITAL:
        return PATIENT if present[PATIENT, to] < patients[t] else -1
    if not opened[t] or age < ages[t, 0] or age > ages[t, 1]:
        return -1
    if mine:
        return ASSIGNED
    return VISITOR if present[VISITOR, to] < visitors[t] else -1


@njit(**INSIDE)
def put(p, to, as_role, place, role, present):
    """Move the person."""
    present[role[p], place[p]] -= 1
    present[as_role, to] += 1
    place[p] = to
    role[p] = as_role


@njit(cache=True, error_model="numpy")
def party(s, size, cautious, guests_uncounted, first, homes, present):
    """A home with an event for somebody who, if `cautious`, stays away from `size` persons or more (-1: never); -1 if
    there is none. `homes` are the candidates, counted from `first`."""
    if len(homes) == 0 or (cautious and size == 0):
        return -1
    if size < 0 or not cautious:
        return first + homes[integers(s, len(homes))]
    # The first of a random order that is small enough is a uniformly random one of those.
    for _ in range(16):
        to = first + homes[integers(s, len(homes))]
        if present[ASSIGNED, to] + (0 if guests_uncounted else present[VISITOR, to]) < size:
            return to
    found, seen = -1, 0
    for home in homes:
        to = first + home
        if present[ASSIGNED, to] + (0 if guests_uncounted else present[VISITOR, to]) < size:
            seen += 1
            if integers(s, seen) == 0:
                found = to
    return found


@njit(**INSIDE)
def restless(
    hour,
    sick_home,
    may,
    reachable,
    working,
    duty,
    place,
    home,
    at_work,
    own,
    started,
    done,
    due,
    result,
    hospital,
    flags,
):
    """Write into `flags`, uint8 (n,), which of n persons of one kind could change something by acting in this hour: who is
    not where they should be, is ill where that matters, or has a routine that could begin or end."""
    for p in range(len(place)):
        on_duty = (duty[p] >> hour) & 1
        part = working ^ (on_duty - 1)
        can = own[p] & ~(started[p] | done[p]) & (may | (due[p] & reachable))
        busy = started[p] & ~done[p]
        target = at_work[p] if on_duty else home[p]
        ill = result[p] > (NEGATIVE if sick_home and place[p] != home[p] else POSITIVE)
        flags[p] = (place[p] != target) | (((can | busy) & part) != 0) | ill | hospital[p]


@njit(**INSIDE)
def act(s, tables, quirks, world, i, hour, memory, hosting):
    """The hour `hour` of the present day in lane `i`; `hosting` int16 (H,): homes with an event now, counted from the
    first home; `memory` as `kernel.step` has prepared it (`contacts.Scratch`)."""
    duty, opened, may, reachable, order = memory.duty, memory.opened, memory.may, memory.reachable, memory.order
    place, role, present = world.place[i], world.role[i], world.present[i]
    who, age, group, home, work, own = (
        world.who[i],
        world.age[i],
        world.group[i],
        world.home[i],
        world.work[i],
        world.own[i],
    )
    favourite, offset, stay = world.favourite[i], world.offset[i], world.stay[i]
    due, started, done, goal, until = world.due[i], world.started[i], world.done[i], world.goal[i], world.until[i]
    summary, hospital, result = world.summary[i], world.hospital[i], world.result[i, 0]
    type_of, kind, ages = tables.type_of, tables.kind, tables.ages
    visitors, patients, working = tables.visitors, tables.patients, tables.working
    day, stage, n = world.day[i], world.stage[i], len(place)
    now, sick_home = day * 24 + hour, tables.sick_home[stage]
    compliance, start_chance = tables.compliance, tables.routine_start
    homes_type = type_of[home[0]]
    first_home = tables.first[homes_type]

    # Who could do something: the others may act or not, nothing comes of it, so they are not drawn. At midnight routines
    # come up again.
    start = active = 0
    while start < n:
        k, end = who[start], start + 1
        while end < n and who[end] == k:
            end += 1
        restless(
            hour,
            sick_home,
            may[k],
            reachable[k],
            working[k],
            duty[start:end],
            place[start:end],
            home[start:end],
            memory.target[start:end],
            own[start:end],
            started[start:end],
            done[start:end],
            due[start:end],
            result[start:end],
            hospital[start:end],
            memory.flags[start:end],
        )
        start = end
    for p in range(n):
        order[active] = p
        active += place[p] >= 0 and (hour == 0 or memory.flags[p] != 0)
    turns = active
    if quirks.sampling_with_replacement:
        turns = binomial(s, n, active / n)
    for turn in range(turns):
        x = integers(s, active if quirks.sampling_with_replacement else active - turn)
        p = order[x]
        if not quirks.sampling_with_replacement:
            order[x] = order[active - turn - 1]
        here, k = place[p], who[p]
        if hour == 0:
            for r in range(tables.routines[k]):
                bit = 1 << r
                if done[p] & bit and day % tables.again[k, r] == 0:
                    started[p] &= ~bit
                    done[p] &= ~bit
                every = tables.every[k, r]
                if every > 0 and own[p] & bit and not (started[p] | done[p]) & bit and day % every == offset[p, r]:
                    due[p] |= bit
        on_duty = (duty[p] >> hour) & 1
        part = working[k] if on_duty else ~working[k]
        can = own[p] & ~(started[p] | done[p]) & (may[k] | (due[p] & reachable[k])) & part
        busy = started[p] & ~done[p] & part
        tested = result[p]
        target = work[p] if on_duty else home[p]
        ill = tested > (NEGATIVE if sick_home and here != home[p] else POSITIVE)
        if here == target and can == 0 and busy == 0 and not ill and not hospital[p]:
            continue

        leave = False
        if here != home[p] and here != work[p]:
            t = type_of[here]
            is_open = opened[t]
            if t == homes_type and not quirks.social_events_always:
                is_open = False
                for h in hosting:
                    is_open = is_open or first_home + h == here
            leave = is_open
            if not quirks.short_visits:
                engaged = False
                for x in range(2):
                    both = started[p] & ~done[p] & (working[k] if x else ~working[k])
                    engaged = engaged or (both != 0 and goal[p, x] == here and now < until[p, x])
                leave = not (is_open and engaged)

        if tested == T_CRITICAL:
            if hospital[p]:
                continue
            for t in range(len(kind)):
                if kind[t] == HOSPITAL and not hospital[p]:
                    for to in range(tables.first[t], tables.first[t] + tables.number[t]):
                        critical = summary[p] == S_CRITICAL
                        as_role = admitted(
                            t, to, to == work[p], age[p], critical, kind, opened, ages, visitors, patients, present
                        )
                        if to == here or as_role >= 0:
                            if to != here:
                                put(p, to, as_role, place, role, present)
                            hospital[p] = True
                            break
            if hospital[p]:
                continue
        elif hospital[p]:
            hospital[p] = False
            if kind[type_of[here]] == HOSPITAL:
                put(p, home[p], ASSIGNED, place, role, present)
                continue
        if sick_home and tested >= POSITIVE and uniform(s) < compliance:
            if here != home[p]:
                put(p, home[p], ASSIGNED, place, role, present)
                continue
            if not quirks.sick_go_out:
                continue
        if leave:
            put(p, home[p], ASSIGNED, place, role, present)

        x = 1 if on_duty else 0
        stays = went = False
        if busy:
            r = 0
            while not (busy >> r) & 1:
                r += 1
            over = stay[p, r] <= 1 if quirks.short_visits else now >= until[p, x]
            if place[p] != goal[p, x] or over:
                done[p] |= busy
            else:
                stays = True
        r = 0
        while not stays and not went and can >> r:
            if (can >> r) & 1:
                begins = tables.start[k, r]
                if (begins == ANYWHERE or place[p] == (home[p] if begins == AT_HOME else work[p])) and uniform(
                    s
                ) < start_chance:
                    t = tables.leads_to[k, r]
                    if t == SOCIAL:
                        size = tables.gathering[stage, group[p] & 1]
                        cautious = uniform(s) < compliance
                        to = party(s, size, cautious, quirks.guests_uncounted, first_home, hosting, present)
                        t = homes_type
                    else:
                        to = favourite[p, r]
                        if uniform(s) < tables.explore[k, r]:
                            to = tables.first[t] + integers(s, tables.number[t])
                    if to >= 0:
                        mine = to == home[p] or to == work[p]
                        critical = summary[p] == S_CRITICAL
                        as_role = ASSIGNED
                        if to != place[p]:
                            as_role = admitted(
                                t, to, mine, age[p], critical, kind, opened, ages, visitors, patients, present
                            )
                            if as_role >= 0:
                                put(p, to, as_role, place, role, present)
                        if as_role >= 0:
                            started[p] |= 1 << r
                            due[p] &= ~(1 << r)
                            goal[p, x] = to
                            until[p, x] = now + stay[p, r]
                            went = True
            r += 1
        if stays or went or place[p] == target:
            continue
        if not on_duty:
            put(p, home[p], ASSIGNED, place, role, present)
        elif target >= 0:
            as_role = admitted(
                type_of[target],
                target,
                True,
                age[p],
                summary[p] == S_CRITICAL,
                kind,
                opened,
                ages,
                visitors,
                patients,
                present,
            )
            if as_role >= 0:
                put(p, target, as_role, place, role, present)
