"""The command line: its grammar, its help, its errors, and what it costs to ask."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import CommandLine

RUNS = "outputs/counter/tomato"


def below(directory: Path) -> list[str]:
    return sorted(str(p.relative_to(directory)) for p in directory.rglob("*"))


@pytest.mark.parametrize("where", ["first", "middle", "last"])
def test_a_sweep_takes_its_flag_anywhere(in_process: Callable, where: str) -> None:
    words = ["task=counter", "env=tomato", "divergence=sqrt_chi2", "coeff=0.05,0.1", "seed=0,1", "task.iterations=2"]
    words.insert({"first": 0, "middle": 3, "last": len(words)}[where], "-m")
    code, _, said = in_process(" ".join(words))
    assert code == 0, said
    for coeff in ("0.05", "0.1"):
        for seed in (0, 1):
            result = Path(f"{RUNS}/sqrt_chi2-coeff={coeff}-task.iterations=2/seed={seed}/result.json").read_text()
            assert {"status": "done", "coeff": float(coeff), "seed": seed}.items() <= json.loads(result).items()
    code, _, said = in_process(" ".join(words))
    assert said.count("done, skipped") == 4 and code == 0


@pytest.mark.parametrize(
    "line", ["--cfg job task=counter seed=3", "task=counter --cfg job seed=3", "seed=3 task=counter -c job"]
)
def test_cfg_prints_what_would_run_and_does_nothing(in_process: Callable, line: str) -> None:
    code, text, _ = in_process(line)
    assert code == 0 and "seed: 3" in text and "iterations: 20" in text
    assert below(Path.cwd()) == []


def test_flags_keep_their_values(in_process: Callable) -> None:
    code, text, _ = in_process("task=counter --cfg job --package task --resolve task.lr=0.5")
    assert code == 0 and "# @package task" in text and "lr: 0.5" in text and "coeff" not in text


@pytest.mark.parametrize(
    ("line", "where", "mend"),
    [
        ("env=tomto", "env=tomto", "tomato"),
        ("tsk=counter", "tsk", "task"),
        ("task.iteratons=3", "task.iteratons", "task.iterations"),
        ("env.training.vf_clp=3", "env.training.vf_clp", "env.training.vf_clip"),
        ("step_seconds=1", "step_seconds", "task.step_seconds"),
        ("coeff=abc", "coeff", "auto"),
        ("task.iterations=2.5", "task.iterations", "int"),
        ("task.mode=fsat", "task.mode", "fast"),
        ("env.reward_fun=prox", "env.reward_fun", "proxy"),
        ("+task.nope=1", "+task.nope", "task.nope=1"),
        ("~task.lr", "~task.lr", "task.lr"),
        ("coeff=0,1", "", "-m"),
        ("-m coeff=0,abc", "coeff", "auto"),
        ("-m env=tomato,tomto", "env=tomto", "tomato"),
        ("-m task.mode=fast,fsat", "task.mode", "fast"),
        ("-m seed=0,1 task.iteratons=3", "task.iteratons", "task.iterations"),
        ("--cfg job task.mode=fsat", "task.mode", "fast"),
        ("--nope", "the command line", "--help"),
        ("--experimental-rerun x.pickle", "the command line", "--help"),
        ("coeff=nan", "coeff", "a number"),
        ("coeff=-inf", "coeff", "a number"),
        ("task.lr=inf", "task.lr", "a number"),
        ("env.training.lr=nan", "env.training.lr", "a number"),
        ("-m coeff=0,nan", "coeff", "a number"),
        ("seed=-1", "seed", "0 to 4294967295"),
        ("seed=4294967296", "seed", "0 to 4294967295"),
        ("env=pandemic env.true_weights=[a,0,0,0]", "env.true_weights[0]", "it takes a value of type list[float]"),
        ("env.training.hidden=[a]", "env.training.hidden[0]", "it takes a value of type list[int]"),
        ("env=gym env.kwargs={a:1,b:[nan]}", "env.kwargs.b", "a number"),
        ("env.reward_std=0", "env.reward_std", "above 0"),
        ("env.reward_mean=-1", "env.reward_mean", "above 0"),
        ("--config-dir nowhere", "--config-dir nowhere", "one that holds YAML files"),
    ],
)
def test_a_mistake_costs_three_lines_and_leaves_nothing(in_process: Callable, line: str, where: str, mend: str) -> None:
    code, _, said = in_process(f"task=counter {line}")
    lines = said.splitlines()
    assert code == 2 and len(lines) <= 3 and "Traceback" not in said
    assert any(text.startswith(f"  where: {where}") for text in lines) or not where
    assert mend in lines[-1] and lines[-1].startswith("  mend:")
    assert below(Path.cwd()) == []


def test_a_mistake_ends_the_process_with_two(rhtool: CommandLine) -> None:
    done = rhtool("task=counter coeff=0,abc -m")
    assert (done.returncode, done.stdout, below(rhtool.cwd)) == (2, "", [])
    assert done.stderr.splitlines()[1:] == ["  where: coeff", "  mend:  give a number, like 0.1, or auto"]


def test_developers_can_have_the_traceback(rhtool: CommandLine) -> None:
    done = rhtool("task=counter env=tomto", RHTOOL_FULL_ERROR="1")
    assert done.returncode == 2 and "Traceback" in done.stderr and "MissingConfigException" in done.stderr


def test_help_teaches(in_process: Callable, rhtool: CommandLine) -> None:
    _, text, _ = in_process("--help")
    for said in (
        "proxy",
        "env=",
        "tomato",
        "Water tomatoes",
        "smoke",
        "-m coeff=",
        "task=report",
        "--cfg job",
        "-sc install",
    ):
        assert said in text
    assert "Hydra's flags" not in text and "schema/" not in text
    assert "hydra" in rhtool("--hydra-help").stdout.lower()


def test_help_of_a_task_lists_fields_with_type_value_and_meaning(in_process: Callable) -> None:
    _, text, _ = in_process("task=counter --help env=tomato")
    for said in ("task.iterations  int = 20", "steps of the walk", "task.mode  fast|slow = 'fast'"):  # 20: the YAML's
        assert said in text
    for said in (
        "env.reward_std  float = 0.05",
        "env.training.gamma  float = 0.99",
        "divergence.over",
        "coeff  float = 0.0",
    ):
        assert said in text


def test_tab_completes_options_and_fields(rhtool: CommandLine) -> None:
    script = rhtool("-sc install=bash")
    assert script.returncode == 0 and "complete" in script.stdout

    def completed(line: str) -> list[str]:
        done = rhtool("-sc query=bash", COMP_LINE=f"rhtool {line}", COMP_POINT=str(len(f"rhtool {line}")))
        return done.stdout.split()

    assert {"scale=paper", "scale=small", "scale=smoke"} == set(completed("scale="))
    assert "env.reward_std=" in completed("env.reward_s")


def test_an_experiment_is_a_table_of_runs(in_process: Callable) -> None:
    code, _, said = in_process("-m experiment=table")
    assert code == 0 and said.count("done  ") == 4
    code, _, said = in_process("-m experiment=table seed=0,1,2 task.lr=0.001 task.iterations=2")
    assert code == 0 and said.count("done, skipped") == 4 and said.count("done  table/") == 2
    directories = {str(path.parent) for path in Path("outputs").rglob("result.json")}
    assert directories == {
        f"outputs/table/tomato/sqrt_chi2-coeff={coeff}/seed={seed}" for coeff in ("0", "0.5") for seed in (0, 1, 2)
    }


def test_an_equals_sign_in_a_path_needs_no_quotes(in_process: Callable) -> None:
    assert in_process("task=counter task.iterations=1 dir=mine/seed=3")[0] == 0
    assert Path("mine/seed=3/result.json").exists()
    code, _, said = in_process("task=counter task.needs=mine/seed=3,mine/seed=4 -m task.iterations=1")
    assert code == 1 and "there is no mine/seed=4" in said and "there is no mine/seed=3" not in said


def test_a_failure_does_not_stop_a_sweep_and_is_named(rhtool: CommandLine) -> None:
    done = rhtool("task=counter -m task.fail_at=-1,0,50 seed=0")
    assert done.returncode == 1
    failed = f"{RUNS}/none-coeff=0-task.fail_at=0/seed=0"
    assert f"1 of 3 runs failed:\n  {failed}  ValueError: the walk hit a wall" in done.stderr
    assert rhtool.result(failed)["reason"] == "ValueError: the walk hit a wall"
    assert rhtool.result(f"{RUNS}/none-coeff=0/seed=0")["status"] == "done"
    assert rhtool.result(f"{RUNS}/none-coeff=0-task.fail_at=50/seed=0")["status"] == "done"


def test_all_that_is_missing_is_said_before_the_first_job_starts(in_process: Callable) -> None:
    Path("here").write_text("content")
    code, _, said = in_process("task=counter -m task.needs=here,nowhere,elsewhere seed=0,1")
    assert code == 1 and "Traceback" not in said
    for missing in ("nowhere", "elsewhere"):
        jobs = ", ".join(f"{RUNS}/none-coeff=0-task.needs={missing}/seed={seed}" for seed in (0, 1))
        assert f"there is no {missing}\n  where: task.needs\n  mend:  touch {missing}\n  jobs:  {jobs}\n" in said
    assert said.endswith("none of the 6 jobs was started\n") and below(Path.cwd()) == ["here"]
    Path("nowhere").write_text("content")
    Path("elsewhere").write_text("content")
    assert in_process("task=counter -m task.needs=here,nowhere,elsewhere seed=0,1")[0] == 0
    Path("nowhere").unlink()  # what its runs are made of has changed
    code, _, said = in_process("task=counter -m task.needs=here,nowhere seed=0,1")
    assert code == 1 and "another configuration" in said and "none of the 4 jobs" in said


def test_every_value_that_cannot_be_is_said(in_process: Callable) -> None:
    code, _, said = in_process("task=counter -m task.lr=0,nan,inf task.mode=fast,fsat")
    assert code == 2 and below(Path.cwd()) == [] and "Traceback" not in said
    for what in ("nan is not a finite number", "inf is not a finite number", "'fsat' is not a value of task.mode"):
        assert said.count(what) == 1


def test_jobs_that_would_take_one_directory_are_refused(in_process: Callable) -> None:
    code, _, said = in_process("task=counter -m dir=same seed=0,1 coeff=0,1")
    assert code == 2 and "4 jobs have one directory, and differ in coeff, seed" in said and below(Path.cwd()) == []
    assert "  where: same\n" in said and "'dir=mine/${coeff}'" in said and "none of the 4 jobs was started" in said
    code, _, said = in_process("task=counter -m dir=same,./same task.lr=1,2")
    assert code == 2 and "differ in task.lr" in said
    code, _, said = in_process("task=counter -m dir=mine/${seed} seed=0,1")
    assert code == 0 and below(Path("mine"))[0] == "0" and Path("mine/1/result.json").exists()
    code, _, said = in_process("task=counter -m dir=one checkpoint_every=1,2")  # one and the same run, twice
    assert code == 0 and "done, skipped" in said


def test_a_single_failure_ends_with_one(rhtool: CommandLine) -> None:
    mendable = rhtool("task=counter task.needs=nowhere")
    assert mendable.returncode == 1 and "mend:  touch nowhere" in mendable.stderr and "Traceback" not in mendable.stderr
    bug = rhtool("task=counter task.fail_at=3")
    assert bug.returncode == 1 and "Traceback" in bug.stderr and "the walk hit a wall" in bug.stderr


def test_ls_names_every_option(in_process: Callable) -> None:
    from rhtool.config import CONF, GROUPS

    _, text, _ = in_process("task=ls")
    for file in (file for group in GROUPS for file in (CONF / group).glob("*.yaml")):
        assert file.stem in text
    assert "Under a minute" in text  # of an option that is only a YAML, the YAML's comment


def test_options_of_ones_own_are_listed_with_the_others(in_process: Callable) -> None:
    _, text, _ = in_process("task=ls")
    lines = {line.split()[1]: line for line in text.splitlines() if len(line.split()) > 1}
    assert "Walk at random." in lines["counter"] and "Walk at random in an env" in lines["env_only"]
    assert "Walk at random." in in_process("--help")[1]


def test_a_plugin_that_cannot_be_imported_is_named(rhtool: CommandLine) -> None:
    (rhtool.cwd / "broken.py").write_text("import json\n\nfrom json import nothing_of_the_kind\n")
    (rhtool.cwd / "wrong.py").write_text("def f(:\n")
    for plugins, said in (
        ("nowhere", "the module 'nowhere' cannot be imported: it is not found"),
        ("nowhere.deep", "the module 'nowhere.deep' cannot be imported: it is not found"),
        ("broken", "the module 'broken' cannot be imported: ImportError: cannot import name 'nothing_of_the_kind'"),
        ("wrong", "the module 'wrong' cannot be imported: SyntaxError"),
    ):
        path = os.pathsep.join([rhtool.environment()["PYTHONPATH"], str(rhtool.cwd)])
        done = rhtool("--help", RHTOOL_PLUGINS=plugins, PYTHONPATH=path)
        assert done.returncode == 2 and done.stderr.startswith(said) and len(done.stderr.splitlines()) == 3
        assert "RHTOOL_PLUGINS" in done.stderr
        assert plugins != "broken" or f"{rhtool.cwd}/broken.py:3" in done.stderr


def test_doctor_examines_and_mends(rhtool: CommandLine) -> None:
    done = rhtool("task=doctor outputs=/proc/nowhere")
    assert done.returncode == 0, done.stderr
    lines = {line.split("  ")[1].strip(): line for line in done.stdout.splitlines() if line[:1] in "✓✗"}
    assert lines["python"].startswith("✓") and lines["numpy"].startswith("✓")
    from rhtool.provenance import versions

    for package, version in versions(["eclipse-sumo", "libsumo", "traci", "sumo-rl"]).items():
        assert package == "python" or f"{package} {version or 'missing'}" in lines["SUMO"]
    assert lines["outputs"].startswith("✗") and "outputs=/a/directory" in lines["outputs"]


def test_submitted_jobs_use_the_same_directories(rhtool: CommandLine) -> None:
    line = "task=counter task.lr=1e-3 task.iterations=2 -m task.fail_at=-1,1"
    done = rhtool(f"{line} hydra/launcher=local")
    assert done.returncode == 1, done.stderr
    assert "task.fail_at=1-task.iterations=2/seed=0  ValueError: the walk hit a wall" in done.stderr
    assert rhtool.result(f"{RUNS}/none-coeff=0-task.iterations=2/seed=0")["status"] == "done"
    assert "done, skipped  counter/tomato/none-coeff=0-task.iterations=2/seed=0" in rhtool(line).stderr


def test_output_cut_by_head_is_no_error(rhtool: CommandLine) -> None:
    command = f"{sys.executable} -m rhtool --help | head -1"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, env=rhtool.environment(), cwd=os.sep)
    assert done.stderr == ""


def test_cfg_of_a_sweep_is_refused_in_one_message(rhtool: CommandLine) -> None:
    found = rhtool("task=counter -m seed=0,1 --cfg job")
    assert found.returncode == 2 and "leave out -m" in found.stderr and "Traceback" not in found.stderr
