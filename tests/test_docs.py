"""The documentation is true: its commands compose, its links lead somewhere, its examples run, its glossary is whole."""

from __future__ import annotations

import contextlib
import csv
import json
import os
import re
import shlex
import sys
from pathlib import Path

import pytest

from rhtool.cli import parse
from rhtool.config import CONF, compose, compose_all, quoted
from tests.conftest import ROOT

PAGES = [ROOT / "README.md", ROOT / "outputs" / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
FEWEST_COMMANDS = 40


def blocks(page: Path, language: str) -> list[str]:
    return [text for found, text in FENCE.findall(page.read_text()) if found == language]


def commands(page: Path) -> dict[str, bool]:
    """`{command: whether it stands in a block}`, in their order, of every line of a block without a language, then of every span
    of code, that is a call of rhtool."""
    lines = [line for block in blocks(page, "") for line in block.splitlines()]
    spans = re.findall(r"`([^`\n]+)`", FENCE.sub("", page.read_text()))
    found = dict.fromkeys(lines, True) | {text: False for text in spans if text not in lines}
    return {text: block for text, block in found.items() if re.match(r"(RHTOOL_\w+=\S+ )*rhtool( |$)", text)}


def written_files(page: str) -> dict[str, str]:
    """`{file name: content}` of the examples of a page: a block after a line that ends with the name, as in "`walk.py`:"."""
    text = (ROOT / page).read_text()
    return {name: body for name, body in re.findall(r"`([\w/.]+)`:\n\n```\w+\n(.*?)^```$", text, re.M | re.S)}


@pytest.fixture
def examples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty directory, in it the files that the pages tell the reader to write."""
    for page in ("docs/environments.md", "docs/divergences.md", "docs/rewards.md", "docs/your-environment.md"):
        for name, body in written_files(page).items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(body)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    for module in ("walk", "hellinger", "brevity", "vacuum"):
        sys.modules.pop(module, None)


def test_there_are_commands_to_check():
    assert sum(len(commands(page)) for page in PAGES) >= FEWEST_COMMANDS
    for page in ("README.md", "docs/sweeps.md", "docs/tasks/orpo.md"):
        assert commands(ROOT / page)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_command_composes_and_reads_what_an_earlier_one_has_written(page, examples, monkeypatch):
    written: set[str] = set()
    for line, in_block in commands(page).items():
        words = shlex.split(line, comments=True)
        with monkeypatch.context() as environment:
            while "=" in words[0]:
                environment.setenv(*words.pop(0).split("=", 1))
            args = parse(["task.watch=5" if word == "--watch" else word for word in words[1:]])
            if args.shell_completion:
                assert [word.split("=")[0] for word in args.overrides] == ["install"], line
                continue
            assert not (args.cfg and args.multirun), f"{line}: Hydra takes one of --cfg and -m"
            several = [w for w in args.overrides if "," in re.sub(r"[\[({].*?[\])}]", "", quoted(w)) or "range(" in w]
            assert args.multirun or not several, line
            for word in args.overrides if in_block else ():
                key, _, value = word.partition("=")
                if value.startswith("outputs/") and key not in ("dir", "outputs", "task.runs", "task.to"):
                    there = (f"{made}/".startswith(f"{value}/") or value.startswith(f"{made}/") for made in written)
                    assert any(there), f"{line}: {value}"
            runs = compose_all(few(args), multirun=args.multirun, config_dir=args.config_dir)
        assert (len(runs) > 1) == bool(several or is_table(args)), line
        written |= {run.dir for run in runs if in_block}


def is_table(args) -> bool:
    """Whether the command makes all runs of an experiment."""
    return args.multirun and any(word.startswith("experiment=") for word in args.overrides)


def few(args) -> list[str]:
    """The overrides of a command for fewer of its runs: composing all of a table takes a minute."""
    words = [fewer(word) for word in args.overrides]
    if is_table(args):  # every shipped one has these
        words += [w for w in ("seed=0,1", "divergence=none") if w.partition("=")[0] not in " ".join(words)]
    return words


def fewer(word: str) -> str:
    """Of many values of a sweep, which take seconds to compose, the first and the last."""
    first, *others = word.split(",")
    return f"{first},{others[-1]}" if len(others) > 2 and "[" not in word else word


@pytest.mark.parametrize("task", sorted(file.stem for file in (CONF / "task").glob("*.yaml")))
def test_every_task_has_a_page(task):
    page = ROOT / "docs" / "tasks" / f"{task}.md"
    assert page.is_file()
    assert f"tasks/{task}.md" in (ROOT / "docs" / "index.md").read_text()
    assert f"task={task}" in page.read_text()


OF_GROUP = {
    "divergence": "divergences.md",
    "env": "environments.md",
    "data": "data.md",
    "model": "models.md",
    "reward": "rewards.md",
    "accelerate": "launch.md",
    "feedback": "feedback.md",
    "method": "tasks/interpret.md",
}


@pytest.mark.parametrize(("group", "page"), OF_GROUP.items())
def test_every_option_is_in_its_page(group, page):
    text = (ROOT / "docs" / page).read_text()
    for file in (CONF / group).glob("*.yaml"):
        assert f"\n| `{file.stem}` |" in text or file.stem == "none"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_link_leads_somewhere(page):
    text = FENCE.sub("", page.read_text())
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if target.startswith("https://"):
            continue
        name, _, anchor = target.partition("#")
        there = (page.parent / name).resolve() if name else page
        assert there.exists(), target
        assert there.is_relative_to(ROOT), target
        headings = re.findall(r"^#+ (.*)$", there.read_text(), re.MULTILINE) if anchor else []
        anchors = {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}
        assert not anchor or anchor in anchors, target


# The glossary


def glossary() -> list[re.Pattern]:
    """A pattern for each key in the first column of the tables of docs/metrics.md; `<name>` stands for one word or more."""
    text = (ROOT / "docs" / "metrics.md").read_text()
    keys = re.findall(r"^\| `([^`]+)` \|", text, re.MULTILINE)
    wild = {"name": r"\w+", "key": r"[\w/]+", "principle": r"\w+"}
    return [re.compile(re.sub(r"<(\w+)>", lambda m: wild[m[1]], key)) for key in keys]


def keys_of(directory: Path) -> set[str]:
    """The keys of a run's metrics.csv and result.json."""
    keys = set(json.loads((directory / "result.json").read_text())["metrics"])
    with contextlib.suppress(FileNotFoundError), open(directory / "metrics.csv") as file:
        keys |= set(next(csv.reader(file)))
    return keys


VISION = [
    ("feature_visualisation", "method.steps=2"),
    ("examples", "method.layer=act0"),
    ("attribution", "method.explained=4", "method.steps=2", "method.permutations=2", "method.patch=16"),
    ("probe",),
    ("generator", "method.steps=2", "method.batch=4"),
]


@pytest.fixture(scope="module")
def smoke_runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, set[str]]:
    """`{what ran: the keys it wrote}` of tiny runs on the toy board."""
    pytest.importorskip("ray")
    pytest.importorskip("trl")
    from rhtool.envs.tomato import Tomato
    from rhtool.rl.policy import Policy

    root, before = tmp_path_factory.mktemp("docs"), Path.cwd()
    os.chdir(root)
    env = Tomato(level=-1).make_vec(1)
    spaces = env.single_observation_space, env.single_action_space
    Policy(*spaces, {"hidden": [8], "share_value": False}).save(root / "base")
    common = ["env=tomato", "env.level=-1", "scale=smoke", "env.base_policy=base"]
    orpo = ["task=orpo", "coeff=0.1", *common]
    lines = {
        "orpo kl": [*orpo, "divergence=kl"],
        **{f"orpo {name}": [*orpo, f"divergence={name}"] for name in ("gail", "max_min", "linear_max_min")},
        "orpo action": [*orpo, "divergence=chi2", "divergence.over=action"],
        "evaluate": ["task=evaluate", *common],
        "detect": ["task=detect", *common],
        "bc": ["task=bc", "task.passes=1", "task.demonstrations=20", "task.grad_clip=1.0", *common],
        **{
            f"interpret {name}": ["task=interpret", f"method={name}", *common]
            for name in ("gap", "distance", "preprocess")
        },
        "rm_train": ["task=rm_train", "task.preferences=40", "task.members=2", *common],
    }
    numbers = ("n_prompts", "n_demonstrations", "n_preferences", "n_validation")
    words = ["data=toy", *(f"data.{name}=16" for name in numbers), "model=tiny", "model.width=16", "model.heads=2"]
    trained = [*words[:5], "model=pretrained", "model.path=sft"]
    small = ["task.answers=6", "task.prompts=4", "task.max_new_tokens=4"]
    short = ["divergence=kl", "coeff=0.1", "task.rollouts=16", "task.minibatch=8", "task.max_new_tokens=4"]
    short += ["task.iterations=2", "task.eval_every=1", "task.eval_prompts=8"]
    (root / "brevity.py").write_text(written_files("docs/rewards.md")["brevity.py"])
    lines |= {
        "sft": ["task=sft", "task.passes=1", "task.every=1", "dir=sft", *words],
        "rm_train of texts": ["task=rm_train", "task.passes=1", "task.every=1", "dir=rm_texts", *words],
        "bon": ["task=bon", "reward=python", "reward.function=brevity:brevity", *small, *words],
        "rlhf_ppo": ["task=rlhf_ppo", "reward=python", "reward.function=brevity:brevity", *trained, *short],
    }
    (root / "tax.jsonl").write_text(json.dumps({"prompt": "sum 1 2", "references": ["3"]}) + "\n")
    tax = ["task.tax=tax.jsonl", "task.max_new_tokens=4", "task.max_prompt=32"]
    feedback = ["feedback=toy", "task.principle=relevance", "task.against=base"]
    lines |= {"morlaif_pm": ["task=morlaif_pm", "task.fit.passes=1", "feedback=toy", *words]}
    lines |= {"rer_eval": ["task=rer_eval", "task.path=outputs/rlhf_ppo", *feedback, *tax, *trained[:5]]}
    pictures = ["env=dots", "env.horizon=6", "scale=smoke", "task.policies=[random]"]
    seen = ["task=rm_train", "task.labels=rewards", "task.network=cnn", "task.passes=2", "dir=seen", *pictures]
    lines["rm_train of rewards"] = [*seen, "task.adversarial.start=1", "task.adversarial.steps=2"]
    lines |= {
        f"interpret {method}": ["task=interpret", f"method={method}", "task.rewards=[seen]", *pictures, *words]
        for method, *words in VISION
    }
    (root / "kindly.py").write_text(written_files("docs/tasks/interpret_texts.md")["kindly.py"])
    interpret, proxy = ["task=interpret", *words[:5]], ["reward=rm", "reward.model=rm_texts"]
    rate = ["method.attribute=kind", "method.has=kindly:has", "method.rewriter=kindly:rewrite"]
    sae = ["method.steps=20", "method.width=1", "method.k=4", "method.ablated=2"]
    lines |= {
        "interpret text_gap": [*interpret, "method=text_gap", "task.answers=outputs/rlhf_ppo"],
        "interpret text_distance": [*interpret, "method=text_distance", "task.answers=outputs/rlhf_ppo"],
        "interpret labels": [*interpret, "method=text_distance", *proxy],
        "interpret counterfactual": [*interpret, "method=counterfactual", *proxy, *rate],
        "interpret tokens": [*interpret, "method=tokens", *proxy, "method.pairs=3", "method.baseline=zero"],
        "interpret vocabulary": [
            *interpret,
            "method=vocabulary",
            *proxy,
            "method.prompts=1",
            "method.others=[rm_texts]",
        ],
        "interpret lens": [*interpret, "method=lens", *proxy, "method.pairs=3"],
        "interpret sae": [*interpret, "method=sae", *proxy, *sae],
    }
    keys = {}
    for name, line in lines.items():
        run = compose(*line)
        run.execute()
        keys[name] = keys_of(root / run.dir)
    os.chdir(before)
    return keys


RUNS = [
    "orpo kl",
    "orpo gail",
    "orpo max_min",
    "orpo linear_max_min",
    "orpo action",
    "evaluate",
    "detect",
    "bc",
    "interpret gap",
    "interpret distance",
    "interpret preprocess",
    "rm_train",
    "rm_train of texts",
    "sft",
    "rlhf_ppo",
    "bon",
    "morlaif_pm",
    "rer_eval",
    "rm_train of rewards",
    *(f"interpret {method}" for method, *_ in VISION),
    "interpret text_gap",
    "interpret text_distance",
    "interpret labels",
    "interpret counterfactual",
    "interpret tokens",
    "interpret vocabulary",
    "interpret lens",
    "interpret sae",
]


def test_the_keys_that_runs_write_are_those_of_the_glossary(smoke_runs):
    known = glossary()
    for name in RUNS:
        keys = smoke_runs[name]
        assert len(keys) > (2 if name.startswith("interpret") else 8), name
        unknown = sorted(key for key in keys if not any(pattern.fullmatch(key) for pattern in known))
        assert unknown == [], name
    written = set().union(*smoke_runs.values())
    absent = [pattern.pattern for pattern in known if not any(map(pattern.fullmatch, written))]
    # Not every environment has any of its own; runs with a Ray are those of tests/rl/test_cluster.py.
    assert [pattern for pattern in absent if not pattern.startswith(("env/", "workers/"))] == []


def test_the_metrics_that_an_environment_reports_of_its_own_are_a_family_of_the_glossary():
    known = glossary()
    for key in ("env/bg", "env/hypoglycemic", "base/env/bg"):
        assert sum(bool(pattern.fullmatch(key)) for pattern in known) == 1, key


# The examples


PYTHON = [
    pytest.param(body, id=f"{page.stem} {i}")
    for page in PAGES
    for i, body in enumerate(blocks(page, "python"))
    if re.search(r"^(print|lanes|result)", body, re.MULTILINE) and "outputs" not in body
]


@pytest.mark.parametrize("body", PYTHON)
def test_every_python_example_runs(body, tmp_path, monkeypatch, capsys):
    pytest.importorskip("ray")
    monkeypatch.chdir(tmp_path)
    exec(compile(body, "example", "exec"), {"__name__": "example"})
    promised = re.findall(r"(-?\d+\.\d+)", "\n".join(re.findall(r"# (.*)", body)))
    printed = [float(number) for number in re.findall(r"-?\d+\.\d+", capsys.readouterr().out)]
    for number in promised:
        digits = len(number.partition(".")[2])
        assert any(round(value, digits) == float(number) for value in printed), number


def test_the_environment_and_the_divergence_that_the_pages_add_work(examples, monkeypatch):
    pytest.importorskip("ray")
    monkeypatch.setenv("RHTOOL_PLUGINS", "walk,hellinger")
    common = ["task=orpo", "env=walk", "scale=smoke"]

    def run(*overrides: str) -> dict[str, float]:
        return compose_all([*common, *overrides], config_dir="options")[0].execute()["metrics"]

    run("dir=base")
    metrics = run("env.base_policy=base", "divergence=hellinger", "coeff=0.1")
    assert metrics["proxy/return"] > metrics["true/return"] > 0
    assert metrics["episode/length"] == 100


SAID = re.findall(r"^    \$ rhtool (.+)\n((?:    .+\n)+)", (ROOT / "README.md").read_text(), re.MULTILINE)


@pytest.mark.parametrize(("line", "said"), SAID, ids=[line for line, _ in SAID])
def test_what_the_readme_says_that_a_command_prints_is_printed(line, said, in_process):
    _, out, err = in_process(line)
    assert [text.strip() for text in (out + err).splitlines()] == [text.strip() for text in said.splitlines()]


def test_there_is_something_printed_to_check():
    assert SAID
