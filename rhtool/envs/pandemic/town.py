"""What a town is: the schema of the YAML files in `towns/`, and how one is read and checked.

Hours are 0 to 23 and the hour after `last` is not part of [first, last]; days of the week are 0 (Monday) to 6.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import MISSING

from rhtool.envs.pandemic.files import read
from rhtool.errors import ConfigError, nearest

KINDS = ("home", "school", "hospital", "business")
WHO = ("minor", "worker", "retired")
STARTS = ("anywhere", "home", "work")
AGES = 5
"""brackets of age in the virus's tables: up to 4, 17, 49, 64, and above"""
MOST_ROUTINES = 16
"""routines that a kind of person can have"""
MOST_PLACES = 32_767
"""places of all types: their numbers are int16"""
MOST = 30_000
"""persons, and of whatever persons fill"""
OLDEST = 150
"""years"""
LAST_DAY = 10**9
"""day of an episode; int32 with room to spare"""


@dataclass
class Place:
    """A type of location; there are `number` of them."""

    kind: str = "business"
    """home: where people live, exempt from regulations; school: where minors go; hospital: takes patients; business"""
    number: int = MISSING
    """how many there are"""
    jobs: int = 0
    """workers of one of them; matters only without the quirk `uniform_jobs`"""
    visitors: int | None = None
    """visitors that fit into one; null: any number"""
    patients: int = 0
    """beds of one hospital"""
    hours: list[list[int]] | None = None
    """[[first, last], …]: hours in which it is open; null: all"""
    days: list[int] | None = None
    """days of the week on which it is open; null: all"""
    ages: list[int] | None = None
    """[youngest, oldest] that may enter; null: everybody"""
    essential: bool = False
    """regulations cannot lock it"""
    attendance: list[list[int]] | None = None
    """a school's hours for its pupils, Monday to Friday"""
    at_least: list[int] = MISSING
    """least contacts an hour among those who live or work there, between them and visitors, among visitors"""
    share: list[float] = MISSING
    """share of all pairs that are in contact in an hour, for the same three groups"""


@dataclass
class Routine:
    """Something that a kind of person does again and again."""

    who: str = MISSING
    """minor (up to 18 years), worker (19 to 65), retired"""
    place: str = MISSING
    """type of location, one of which is the person's favourite; social: any home with an event"""
    start: str = "anywhere"
    """where it begins: anywhere, home, work (then it is done in working hours, else outside of them)"""
    every: int | None = None
    """days from one to the next, begun on a random day and due until done; null: whenever `hours` and `days` allow it"""
    hours: list[int] | None = None
    """[first, last] hour in which it may begin; null: any"""
    days: list[int] | None = None
    """days of the week on which it may begin; null: any"""
    explore: float = 0.05
    """probability of another place of that type than the favourite"""
    again: int = 1
    """once done, it can come up again on days that this number divides"""
    stay: list[int] = field(default_factory=lambda: [1, 1])
    """[shortest, longest] stay in hours, drawn for each person"""
    min_age: int = 0
    """youngest person who does it"""


@dataclass
class Strain:
    """How well a strain spreads."""

    spread: float = MISSING
    """mean over persons of the probability that a contact with them infects, when they are infectious"""
    spread_sd: float = MISSING
    """its standard deviation (normal, truncated to [0, 1])"""
    multiplier: float = 1.0
    """factor of that probability where no regulation ever held"""


@dataclass
class Virus:
    """The course of the disease: rates are probabilities per day, triangular ones are drawn once per population."""

    alpha: Strain = field(default_factory=Strain)
    """the strain that is there from the first day"""
    delta: Strain = field(default_factory=Strain)
    """the strain that comes later"""
    initial: int = 6
    """persons exposed when a strain starts: the first of the population who are not gone, those in nursing homes"""
    delta_start: list[int] = MISSING
    """[first, last] day after which delta starts, drawn for each episode"""
    symptomatic: float = MISSING
    """share of the infected who will have symptoms"""
    exposed_days: list[float] = MISSING
    """[least, mode, most] mean days from exposure to being infectious"""
    pre_days: float = MISSING
    """mean days of being infectious before symptoms show (or would show)"""
    asymptomatic_days: list[float] = MISSING
    """[least, mode, most] mean days of an infection without symptoms"""
    symptomatic_days: list[float] = MISSING
    """[least, mode, most] mean days of symptoms"""
    hospital_need_rate: float = MISSING
    """rate from symptoms to the need of a hospital, among those who will need one"""
    untreated_recovery: float = MISSING
    """rate of recovery of who needs a hospital and is in none"""
    untreated_death: float = MISSING
    """rate of death of who needs a hospital, is in none, and will die"""
    hospital_days: list[float] = MISSING
    """[least, mode, most] mean days in hospital until recovery"""
    hospital_death_days: list[float] = MISSING
    """[least, mode, most] mean days in hospital until death"""
    need_low: list[float] = MISSING
    """per cent of the symptomatic who need a hospital, by bracket of age, at low risk"""
    need_high: list[float] = MISSING
    """the same at high risk"""
    death_untreated: list[float] = MISSING
    """share that dies of those who need a hospital and are in none, by bracket of age"""
    death_treated: list[float] = MISSING
    """share that dies of those in hospital, by bracket of age"""


@dataclass
class Testing:
    """Who is tested, once a day, and how well."""

    spontaneous: float = MISSING
    """probability for somebody without symptoms of one of the strains"""
    symptomatic: float = MISSING
    """probability for somebody with symptoms"""
    critical: float = MISSING
    """probability for somebody who needs a hospital"""
    retest: float = MISSING
    """probability for somebody whose last test was positive"""
    false_positive: float = MISSING
    """probability that a test of a healthy person is positive"""
    false_negative: float = MISSING
    """probability that a test of an infected person is negative"""
    threshold: int = MISSING
    """persons tested infected from which the observation's flag is raised"""


@dataclass
class Town:
    """A town."""

    persons: int = MISSING
    """how many live there"""
    compliance: float = MISSING
    """probability with which a person keeps to a regulation when it matters"""
    routine_start: float = MISSING
    """probability that a routine that is due begins when the person acts"""
    nursing: float = MISSING
    """share of the retired who live in nursing homes, in ones and twos"""
    single_parents: float = MISSING
    """share of the homes with minors in which just one adult lives"""
    places: dict[str, Place] = MISSING
    """types of location"""
    routines: list[Routine] = MISSING
    """what people do, in the order in which they try it"""
    virus: Virus = field(default_factory=Virus)
    """the disease"""
    testing: Testing = field(default_factory=Testing)
    """the tests"""


def load(path: Path) -> Town:
    """The town of a YAML file. Raises `ConfigError`, naming file and field, for one in which nobody could live."""
    town: Town = read(Town, path)

    def check(good: bool, what: str, where: str, mend: str) -> None:
        if not good:
            raise ConfigError(what, f"{path}, {where}", mend)

    def windows(ranges: Any, last: int, where: str) -> None:
        check(ranges is None or len(ranges) > 0, "an empty list", where, "name one or more, or take the field away")
        for pair in ranges or []:
            good = len(pair) == 2 and 0 <= pair[0] <= pair[1] <= last
            check(good, f"{pair} is no range", where, f"give [first, last] from 0 to {last}")

    def weekdays(days: Any, where: str) -> None:
        check(days is None or len(days) > 0, "an empty list", where, "name one or more, or take the field away")
        for day in days or []:
            check(0 <= day <= 6, f"{day} is no day of the week", where, "choose from 0 (Monday) to 6")

    check(6 <= town.persons <= MOST, f"{town.persons} persons", "persons", f"choose 6 to {MOST}")
    for name in ("compliance", "routine_start", "nursing", "single_parents"):
        value = getattr(town, name)
        check(0 <= value <= 1, f"{value} is not a probability", name, "choose a number from 0 to 1")
    for name, place in town.places.items():
        where = f"places.{name}"
        check(place.kind in KINDS, f"'{place.kind}' is not a kind", f"{where}.kind", nearest(place.kind, KINDS))
        check(1 <= place.number <= MOST, f"{place.number} of them", f"{where}.number", f"choose 1 to {MOST}")
        for key in ("jobs", "visitors", "patients"):
            value = getattr(place, key)
            mend = f"choose 0 to {MOST}" + (", or null for any number" if key == "visitors" else "")
            check(value is None or 0 <= value <= MOST, f"{value} {key}", f"{where}.{key}", mend)
        check(place.patients == 0 or place.kind == "hospital", "only a hospital has patients", where, "remove patients")
        check(
            place.attendance is None or place.kind == "school", "only a school has pupils", where, "remove attendance"
        )
        for key in ("at_least", "share"):
            check(len(getattr(place, key)) == 3, "there are three groups", f"{where}.{key}", "give three numbers")
        good = all(0 <= least <= MOST for least in place.at_least)
        check(good, f"{place.at_least} contacts", f"{where}.at_least", f"choose 0 to {MOST} for each group")
        shares = all(0 <= share <= 1 for share in place.share)
        check(shares, "a share is not from 0 to 1", f"{where}.share", "choose numbers from 0 to 1")
        windows(place.hours, 23, f"{where}.hours")
        windows(place.attendance, 23, f"{where}.attendance")
        weekdays(place.days, f"{where}.days")
        ages = [0, OLDEST] if place.ages is None else place.ages
        good = len(ages) == 2 and 0 <= ages[0] <= ages[1] <= OLDEST
        check(good, f"{ages} are no ages", f"{where}.ages", f"give [youngest, oldest] from 0 to {OLDEST}")
    homes = [name for name, place in town.places.items() if place.kind == "home"]
    check(len(homes) == 1, f"{len(homes)} types of home", "places", "give exactly one type the kind home")
    total = sum(place.number for place in town.places.values())
    check(total <= MOST_PLACES, f"{total} places in all", "places", f"lower their numbers to {MOST_PLACES} in all")
    check(len(town.places) > 1, "nobody has a place to work", "places", "add a type of another kind than home")
    check(len(town.places) <= 30, f"{len(town.places)} types of place", "places", "give at most 30")
    for i, routine in enumerate(town.routines):
        where, places = f"routines[{i}]", [*town.places, "social"]
        check(routine.who in WHO, f"nobody is a '{routine.who}'", f"{where}.who", nearest(routine.who, WHO))
        check(routine.place in places, f"no place '{routine.place}'", f"{where}.place", nearest(routine.place, places))
        check(routine.place not in homes, "a home is no goal", f"{where}.place", "name another type, or social")
        check(routine.start in STARTS, f"no start '{routine.start}'", f"{where}.start", nearest(routine.start, STARTS))
        check(0 <= routine.explore <= 1, f"{routine.explore} is no probability", f"{where}.explore", "choose 0 to 1")
        check(
            routine.every is None or 1 <= routine.every <= 120, "not every so many days", f"{where}.every", "1 to 120"
        )
        bound = routine.hours is not None or routine.days is not None
        mend = "keep either, since it is due from midnight until done"
        check(routine.every is None or not bound, "both every and hours or days", where, mend)
        check(1 <= routine.again <= MOST, f"{routine.again} days", f"{where}.again", f"choose 1 to {MOST}")
        good = 0 <= routine.min_age <= OLDEST
        check(good, f"{routine.min_age} is no age", f"{where}.min_age", f"choose 0 to {OLDEST}")
        good = len(routine.stay) == 2 and 1 <= routine.stay[0] <= routine.stay[1] <= 24
        check(good, f"{routine.stay} is no stay", f"{where}.stay", "[shortest, longest], 1 to 24 hours")
        windows(None if routine.hours is None else [routine.hours], 23, f"{where}.hours")
        weekdays(routine.days, f"{where}.days")
    for who in WHO:
        count = sum(routine.who == who for routine in town.routines)
        check(count <= MOST_ROUTINES, f"{count} routines of a {who}", "routines", f"give at most {MOST_ROUTINES}")
    check_virus(town, check)
    return town


def check_virus(town: Town, check: Any) -> None:
    """The numbers of the virus and of the tests; `check(good, what, where, mend)` raises."""
    virus, where = town.virus, "virus"
    for name in ("need_low", "need_high", "death_untreated", "death_treated"):
        values, most = getattr(virus, name), 100 if name.startswith("need") else 1
        good = len(values) == AGES and all(0 <= value <= most for value in values)
        check(good, f"{values} do not fit", f"{where}.{name}", f"give {AGES} numbers from 0 to {most}")
    for name in ("exposed_days", "asymptomatic_days", "symptomatic_days", "hospital_days", "hospital_death_days"):
        values = getattr(virus, name)
        good = len(values) == 3 and 1 <= values[0] <= values[1] <= values[2] < math.inf
        check(good, f"{values} do not fit", f"{where}.{name}", "give [least, mode, most], 1 or more")
    for name in ("symptomatic", "hospital_need_rate", "untreated_recovery", "untreated_death"):
        value = getattr(virus, name)
        check(0 <= value <= 1, f"{value} is not a probability", f"{where}.{name}", "choose a number from 0 to 1")
    mend = "choose a number above 0; need_low and need_high say who never needs one"
    check(virus.hospital_need_rate > 0, "nobody would come to need it", f"{where}.hospital_need_rate", mend)
    check(1 <= virus.pre_days < math.inf, f"{virus.pre_days} days", f"{where}.pre_days", "choose 1 or more")
    check(0 <= virus.initial <= town.persons, f"{virus.initial} persons", f"{where}.initial", "0 to all")
    start = virus.delta_start
    good = len(start) == 2 and 0 <= start[0] <= start[1] <= LAST_DAY
    check(good, f"{start} is no range", f"{where}.delta_start", f"give [first, last] from 0 to {LAST_DAY}")
    for name in ("alpha", "delta"):
        strain = getattr(virus, name)
        check(0 <= strain.spread <= 1, f"{strain.spread} is no probability", f"{where}.{name}.spread", "0 to 1")
        good = 0 < strain.spread_sd <= 1
        what = f"{strain.spread_sd} is not the spread of a probability"
        check(good, what, f"{where}.{name}.spread_sd", "choose more than 0, at most 1")
        good = 0 < strain.multiplier < math.inf
        check(good, f"{strain.multiplier} is no factor", f"{where}.{name}.multiplier", "choose a number above 0")
    for name in ("spontaneous", "symptomatic", "critical", "retest", "false_positive", "false_negative"):
        value = getattr(town.testing, name)
        check(0 <= value <= 1, f"{value} is not a probability", f"testing.{name}", "choose a number from 0 to 1")
    threshold = town.testing.threshold
    check(0 <= threshold <= MOST, f"{threshold} persons", "testing.threshold", f"choose 0 to {MOST}")
