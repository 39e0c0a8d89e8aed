"""What a town is: the schema of the YAML files in `towns/`, and how one is read and checked.

Hours are 0 to 23 and the hour after `last` is not part of [first, last]; days of the week are 0 (Monday) to 6.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import MISSING, OmegaConf
from omegaconf.errors import ConfigKeyError, MissingMandatoryValue, OmegaConfBaseException

from rhtool.errors import ConfigError, nearest

KINDS = ("home", "school", "hospital", "business")
WHO = ("minor", "worker", "retired")
STARTS = ("anywhere", "home", "work")
AGES = 5
"""brackets of age in the virus's tables: up to 4, 17, 49, 64, and above"""
MOST_ROUTINES = 16
"""routines that a kind of person can have"""


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
    """persons exposed when a strain starts: the first ones of the population, who live in nursing homes"""
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


def read(cls: type, path: Path) -> Any:
    """The file as an instance of the dataclass `cls`. Raises `ConfigError`, naming file and field, for one that does not
    fit."""
    try:
        given = OmegaConf.load(path)
        merged = OmegaConf.merge(OmegaConf.structured(cls), given)
        missing = sorted(OmegaConf.missing_keys(merged))
        if missing:
            raise ConfigError(f"'{missing[0]}' is missing", str(path), f"add {', '.join(missing)}")
        return OmegaConf.to_object(merged)
    except ConfigError:
        raise
    except ConfigKeyError as error:
        key = str(error.full_key)
        known = getattr(error.object_type, "__dataclass_fields__", {})
        mend = nearest(key.split(".")[-1], known) if known else "remove it"
        raise ConfigError(f"'{key}' is not a field", str(path), mend) from error
    except (OmegaConfBaseException, MissingMandatoryValue) as error:
        what = str(error).splitlines()[0]
        raise ConfigError(what, f"{path}, {getattr(error, 'full_key', '')}", "give a value of that type") from error
    except Exception as error:
        raise ConfigError(f"not a YAML mapping: {error}", str(path), "see the files in rhtool/envs/pandemic") from error


def load(path: Path) -> Town:
    """The town of a YAML file. Raises `ConfigError`, naming file and field, for one in which nobody could live."""
    town: Town = read(Town, path)

    def check(good: bool, what: str, where: str, mend: str) -> None:
        if not good:
            raise ConfigError(what, f"{path}, {where}", mend)

    def windows(ranges: Any, last: int, where: str) -> None:
        for pair in ranges or []:
            check(len(pair) == 2 and 0 <= pair[0] <= pair[1] <= last, f"{pair} is no range", where, f"0 to {last}")

    check(6 <= town.persons <= 30_000, f"{town.persons} persons", "persons", "choose 6 to 30000")
    for name in ("compliance", "routine_start", "nursing", "single_parents"):
        value = getattr(town, name)
        check(0 <= value <= 1, f"{value} is not a probability", name, "choose a number from 0 to 1")
    for name, place in town.places.items():
        where = f"places.{name}"
        check(place.kind in KINDS, f"'{place.kind}' is not a kind", f"{where}.kind", nearest(place.kind, KINDS))
        check(1 <= place.number <= 30_000, f"{place.number} of them", f"{where}.number", "choose 1 or more")
        check(place.patients == 0 or place.kind == "hospital", "only a hospital has patients", where, "remove patients")
        check(
            place.attendance is None or place.kind == "school", "only a school has pupils", where, "remove attendance"
        )
        for key in ("at_least", "share"):
            check(len(getattr(place, key)) == 3, "there are three groups", f"{where}.{key}", "give three numbers")
        check(min(place.at_least) >= 0, "contacts cannot be negative", f"{where}.at_least", "choose 0 or more")
        shares = all(0 <= share <= 1 for share in place.share)
        check(shares, "a share is not from 0 to 1", f"{where}.share", "choose numbers from 0 to 1")
        windows(place.hours, 23, f"{where}.hours")
        windows(place.attendance, 23, f"{where}.attendance")
        windows([[day, day] for day in place.days or []], 6, f"{where}.days")
        check(place.ages is None or len(place.ages) == 2, "ages are two numbers", f"{where}.ages", "[youngest, oldest]")
    homes = [name for name, place in town.places.items() if place.kind == "home"]
    check(len(homes) == 1, f"{len(homes)} types of home", "places", "give exactly one type the kind home")
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
        check(routine.again >= 1, f"{routine.again} days", f"{where}.again", "choose 1 or more")
        good = len(routine.stay) == 2 and 1 <= routine.stay[0] <= routine.stay[1] <= 24
        check(good, f"{routine.stay} is no stay", f"{where}.stay", "[shortest, longest], 1 to 24 hours")
        windows([routine.hours] if routine.hours else [], 23, f"{where}.hours")
        windows([[day, day] for day in routine.days or []], 6, f"{where}.days")
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
        good = len(values) == 3 and 1 <= values[0] <= values[1] <= values[2]
        check(good, f"{values} do not fit", f"{where}.{name}", "give [least, mode, most], 1 or more")
    for name in ("symptomatic", "hospital_need_rate", "untreated_recovery", "untreated_death"):
        value = getattr(virus, name)
        check(0 <= value <= 1, f"{value} is not a probability", f"{where}.{name}", "choose a number from 0 to 1")
    check(virus.pre_days >= 1, f"{virus.pre_days} days", f"{where}.pre_days", "choose 1 or more")
    check(0 <= virus.initial <= town.persons, f"{virus.initial} persons", f"{where}.initial", "0 to all")
    start = virus.delta_start
    check(
        len(start) == 2 and 0 <= start[0] <= start[1], f"{start} is no range", f"{where}.delta_start", "[first, last]"
    )
    for name in ("alpha", "delta"):
        strain = getattr(virus, name)
        check(0 <= strain.spread <= 1, f"{strain.spread} is no probability", f"{where}.{name}.spread", "0 to 1")
        check(0 < strain.spread_sd <= 1, f"{strain.spread_sd}", f"{where}.{name}.spread_sd", "more than 0, at most 1")
        check(strain.multiplier >= 0, f"{strain.multiplier}", f"{where}.{name}.multiplier", "choose 0 or more")
    for name in ("spontaneous", "symptomatic", "critical", "retest", "false_positive", "false_negative"):
        value = getattr(town.testing, name)
        check(0 <= value <= 1, f"{value} is not a probability", f"testing.{name}", "choose a number from 0 to 1")
