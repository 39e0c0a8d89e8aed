"""`rhtool`: find `conf/`, compose, run. Nothing heavy is imported before a task runs.

A command line is Hydra's, with these differences: flags may stand anywhere, `--help` is ours, every job is composed and
checked before the first one starts, and what is wrong is said in three lines. `RHTOOL_FULL_ERROR=1` shows tracebacks.
"""

from __future__ import annotations

import argparse
import os
import sys
import traceback

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from rhtool import __version__
from rhtool.config import CONF, check_config_dir, compose_all, explained, from_config, launcher, quoted, register
from rhtool.errors import ConfigError, RhtoolError
from rhtool.identity import differences, identity
from rhtool.launchers import Local
from rhtool.locks import UnderWay
from rhtool.records import outcome
from rhtool.run import Run

FULL_ERROR = "RHTOOL_FULL_ERROR"
SHOWN = 4
"""of the jobs that have one and the same problem, how many are named"""

Problem = tuple[Exception, list[str]]
"""what is wrong, and the jobs in which it is"""


def cli() -> None:
    """The command. Exit codes: 0 done, 1 a run failed, 2 the command line was wrong, 128+n stopped by signal n."""
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra then raises its errors instead of printing them
    try:
        code = command(sys.argv[1:])
    except ConfigError as error:
        code = 2
        report(error)
    except KeyboardInterrupt:
        code = 130
        print("stopped by SIGINT", file=sys.stderr)
    except BrokenPipeError:  # rhtool --help | head
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 141
    except Exception as error:
        code = 1
        report(error)
    sys.exit(code)


def command(argv: list[str]) -> int:
    """Do what the command line says; the exit code."""
    if "--version" in argv:
        print(f"rhtool {__version__}")
        return 0
    args = parse(["task.watch=5" if word == "--watch" else word for word in argv])
    overrides = [quoted(override) for override in args.overrides]
    if args.help:
        from rhtool.help import help_text

        print(help_text(overrides, args.config_dir))
        return 0
    sys.argv[1:] = [*overrides, *flags(args)]
    if args.shell_completion or args.hydra_help or args.info:
        check_config_dir(args.config_dir)
        register()
        with explained():
            main()
        return 0
    runs = compose_all(overrides, multirun=args.multirun, config_dir=args.config_dir)
    if args.cfg and args.multirun:
        raise ConfigError("--cfg shows one run, not a sweep", "the command line", "leave out -m, or --cfg")
    if args.cfg:
        main()
        return 0
    errors: dict[str, Exception] = {}
    ours = launcher() if runs else None
    if ours and not args.multirun:
        raise ConfigError("a launcher takes a sweep", "hydra/launcher", "add -m")
    here = not args.multirun or (runs and HydraConfig.get().runtime.choices["hydra/launcher"] == "basic")
    if args.multirun and (code := refused(runs, here)):
        return code
    if ours:
        ours.launch(runs)
        if runs[0].submit == "detach" and not isinstance(ours, Local):
            return 0
    elif here:
        for number, run in enumerate(runs):
            if error := attempt(run):
                errors[run.dir or f"job {number}"] = error
    else:  # the jobs run elsewhere, or a sweeper makes them up as it goes
        main()
    return summary(runs, errors) if args.multirun else int(bool(errors))


def parse(argv: list[str]) -> argparse.Namespace:
    """The flags and the overrides of a command line, in any order."""
    from hydra._internal.utils import get_args_parser  # the very parser to which `flags` hands them on

    def wrong(message: str) -> None:
        raise ConfigError(message, "the command line", "see rhtool --help, and rhtool --hydra-help for Hydra's flags")

    parser = get_args_parser()
    parser.error = wrong
    after_info = [i + 1 for i, word in enumerate(argv[:-1]) if word in ("-i", "--info") and "=" in argv[i + 1]]
    for i in reversed(after_info):  # its value may be left out; an override is not it
        argv = [*argv[:i], "all", *argv[i:]]
    args = parser.parse_intermixed_args(argv)
    if args.experimental_rerun:
        wrong("--experimental-rerun loads a pickle, which can run anybody's code")
    if args.config_name or args.config_path:
        wrong("the configuration is rhtool's own; --config-dir DIR adds options of yours to its groups")
    return args


def flags(args: argparse.Namespace) -> list[str]:
    """The flags of parsed arguments, as words."""
    words = []
    for name, value in vars(args).items():
        if name not in ("overrides", "help") and value not in (None, False):
            words += [f"--{name.replace('_', '-')}", *([] if value is True else [value])]
    return words


def refused(runs: list[Run], here: bool) -> int:
    """Say everything that keeps jobs of a sweep from starting; the exit code if there is anything, else 0.

    What a task needs is looked for only if the jobs run `here`: another machine may have what this one lacks.
    """
    wrong, missing = collisions(runs), failing(runs) if here else []
    for error, jobs in [*wrong, *missing]:
        report(error)
        more = f" and {len(jobs) - SHOWN} more" if len(jobs) > SHOWN else ""
        print(f"  jobs:  {', '.join(jobs[:SHOWN])}{more}", file=sys.stderr)
    if wrong or missing:
        print(f"none of the {len(runs)} jobs was started", file=sys.stderr)
    return 1 if missing else 2 if wrong else 0


def collisions(runs: list[Run]) -> list[Problem]:
    """The directories that several jobs would take, though they are not the same run."""
    by_path: dict[str, list[Run]] = {}
    for run in runs:
        if run.dir:
            by_path.setdefault(os.path.realpath(run.dir), []).append(run)
    found = []
    for same in by_path.values():
        first, *others = (identity(run) if len(same) > 1 else {} for run in same)
        if keys := dict.fromkeys(key for other in others for key, *_ in differences(first, other)):
            what = f"{len(same)} jobs have one directory, and differ in {', '.join(keys)}"
            mend = f"leave out dir=..., or put into it what differs: 'dir=mine/${{{next(iter(keys))}}}'"
            found.append((ConfigError(what, same[0].dir, mend), [" ".join(run.overrides or ()) for run in same]))
    return found


def failing(runs: list[Run]) -> list[Problem]:
    """What the checks of the jobs find, each thing once."""
    found: dict[str, Problem] = {}
    for run in runs:
        try:
            run.check()
        except Exception as error:
            said = f"{type(error).__name__}: {error}"
            found.setdefault(said, (error, []))[1].append(run.dir or run.option("task"))
    return list(found.values())


def attempt(run: Run) -> Exception | None:
    """Execute a run. Its failure is reported and returned: it must not stop the other runs of a sweep."""
    try:
        run.execute()
    except Exception as error:
        report(error)
        return error
    return None


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")
def main(cfg: DictConfig) -> None:
    """One job that a launcher of Hydra's started, in a process of its own."""
    register()
    attempt(from_config(cfg))


def summary(runs: list[Run], errors: dict[str, Exception]) -> int:
    """Name every run of a sweep that has no result, with the reason; the exit code.

    The disk says so, whatever process the run was in; `errors` were raised in this one, and may have left nothing.
    """
    elsewhere = {where for where, error in errors.items() if isinstance(error, UnderWay)}
    failed = {where: _line(error) for where, error in errors.items() if where not in elsewhere}
    for run in runs:
        if run.dir and run.dir not in {*failed, *elsewhere} and (reason := outcome(run)):
            failed[run.dir] = reason
    if elsewhere:
        print(f"{len(elsewhere)} of {len(runs)} runs are under way in another process", file=sys.stderr)
    if failed:
        total = max(len(runs), len(failed))
        print(f"{len(failed)} of {total} runs failed:", file=sys.stderr)
        for where, reason in failed.items():
            print(f"  {where}  {reason}", file=sys.stderr)
    return 1 if failed else 0


def report(error: Exception) -> None:
    """Say what was wrong: an error that a user can mend in its three lines, another with its traceback."""
    if isinstance(error, RhtoolError) and os.environ.get(FULL_ERROR) != "1":
        print(error, file=sys.stderr)
    else:
        traceback.print_exception(error)


def _line(error: Exception) -> str:
    text = error.what if isinstance(error, RhtoolError) else f"{type(error).__name__}: {error}"
    return text.splitlines()[0] if text else type(error).__name__
