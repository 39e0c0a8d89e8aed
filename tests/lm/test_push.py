"""task=push: what arrives at a hub on this machine is what the run made; what should not leave does not."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from rhtool.config import compose
from rhtool.models import SAVED

pytest.importorskip("trl")
import torch
from transformers import AutoModelForCausalLM

from rhtool.lm import card, push
from tests.conftest import CommandLine
from tests.lm.hub import READER, TOKEN, Hub, serving

pytestmark = pytest.mark.lm
HERE = {"HF_HUB_OFFLINE": "", "TRANSFORMERS_OFFLINE": "", "HF_HUB_DISABLE_XET": "1", "HF_TOKEN": TOKEN, "NO_PROXY": "*"}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a run in outputs/sft that has adapters of a local model."""
    root = tmp_path_factory.mktemp("made")
    numbers = [f"data.{name}=16" for name in ("n_prompts", "n_demonstrations", "n_preferences", "n_validation")]
    common = ["task=sft", "data=toy", *numbers, "task.passes=1"]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        compose(*common, "model.width=16", "model.heads=2", "dir=outputs/first").execute()
        compose(*common, "model.path=outputs/first", "model.lora.r=2", "dir=outputs/sft").execute()
    return root


@pytest.fixture
def run(made: Path, tmp_path: Path) -> Path:
    """A copy of the run, in the working directory of the `rhtool` fixture."""
    return Path(shutil.copytree(made / "outputs" / "sft", tmp_path / "outputs" / "sft"))


def pushed(rhtool: CommandLine, hub: Hub | None, line: str = "", **environment: str):
    environment = {
        **HERE,
        "HF_HOME": str(rhtool.cwd / "hf"),
        **({"HF_ENDPOINT": hub.url} if hub else {}),
        **environment,
    }
    return rhtool(f"task=push task.path=outputs/sft task.repo=nobody/small {line}", **environment)


def test_what_arrives_is_what_was_made(rhtool, run, tmp_path):
    with serving() as hub:
        done = pushed(rhtool, hub, "task.dry_run=true", HF_TOKEN="")
        assert done.returncode == 0 and "nothing was" in done.stdout and not hub.repos, done.stderr
        done = pushed(rhtool, hub, "task.license=mit")
        assert done.returncode == 0, done.stderr
        repo = hub.repos["nobody/small"]
        assert hub.url in done.stdout and TOKEN not in done.stdout + done.stderr
        assert repo["private"] and repo["commits"] == 1
        files = {name: data for name, data in repo["files"].items() if name != ".gitattributes"}
        there = {p.relative_to(run / SAVED).as_posix() for p in (run / SAVED).rglob("*") if p.is_file()}
        assert {*files} == {name for name in there if not name.startswith("adapter/")}
        assert "left out: adapter/" in done.stdout
        for name, data in files.items():
            assert name == card.CARD or data == (run / SAVED / name).read_bytes(), name
            (tmp_path / "arrived" / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "arrived" / name).write_bytes(data)
        keys, body = card.parsed(files[card.CARD].decode())
        assert keys["license"] == "mit" and 'from_pretrained("nobody/small")' in body and card.NAME not in body
        one, other = (AutoModelForCausalLM.from_pretrained(x) for x in (tmp_path / "arrived", run / SAVED))
        assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))

        again = pushed(rhtool, hub)
        assert again.returncode == 1 and "holds" in again.stderr and "task.overwrite=true" in again.stderr
        assert pushed(rhtool, hub, "task.overwrite=true").returncode == 0 and repo["commits"] == 2


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({"HF_TOKEN": ""}, "there is no token"),
        ({"HF_TOKEN": READER}, "You don't have the rights"),
        ({"HF_TOKEN": "hf_not_one"}, "Invalid credentials"),
        ({"HF_HUB_OFFLINE": "1"}, "the network is switched off"),
        ({"HF_ENDPOINT": "http://127.0.0.1:9"}, "the upload broke off"),
    ],
    ids=["no token", "no rights", "bad token", "offline", "no network"],
)
def test_what_the_hub_or_the_network_refuses(rhtool, run, environment, said):
    with serving() as hub:
        done = pushed(rhtool, hub, **environment)
        assert done.returncode == 1 and said in done.stderr and "mend:" in done.stderr, done.stderr
        assert "Traceback" not in done.stderr and not any(repo["commits"] for repo in hub.repos.values())
        assert environment.get("HF_TOKEN", TOKEN) not in done.stderr or not environment.get("HF_TOKEN", TOKEN)


def rewrite(file: Path, **changes: object) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


SPOILED = {
    "a pickle": (lambda run: (run / SAVED / "training_args.bin").write_bytes(b"\x80\x04"), "may run code"),
    "code": (lambda run: (run / SAVED / "modeling.py").write_text("pass"), "may run code"),
    "a link": (lambda run: (run / SAVED / "notes.txt").symlink_to("/etc/hostname"), "no links"),
    "no card": (lambda run: (run / SAVED / card.CARD).unlink(), "lacks README.md"),
    "no tokenizer": (lambda run: (run / SAVED / "tokenizer.json").unlink(), "lacks tokenizer.json"),
    "no weights": (lambda run: (run / SAVED / "model.safetensors").unlink(), "lacks model.safetensors"),
    "cut weights": (lambda run: cut(run / SAVED / "model.safetensors"), "damaged"),
    "a path": (lambda run: rewrite(run / SAVED / "config.json", _name_or_path="/home/me/x"), "this machine"),
    "not finished": (lambda run: rewrite(run / "result.json", status="failed", reason="ill"), "no finished run"),
    "no result": (lambda run: (run / "result.json").unlink(), "no finished run"),
    "no model": (lambda run: shutil.rmtree(run / SAVED), "no language model"),
    "a shard": (
        lambda run: (run / SAVED / "model.safetensors.index.json").write_text(
            '{"weight_map": {"a": "model-2.safetensors"}}'
        ),
        "lacks model-2.safetensors",
    ),
}


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-100])


@pytest.mark.parametrize("name", SPOILED)
def test_a_folder_that_should_not_leave(run, name):
    spoil, said = SPOILED[name]
    spoil(run)
    task = ["task=push", f"task.path={run}", "task.repo=nobody/small", "task.dry_run=true"]
    with pytest.raises(push.RhtoolError, match=said):
        compose(*task).execute()


@pytest.mark.parametrize("repo", ["", "small", "a/b/c", "no body/small", "nobody/-small"])
def test_a_name_that_is_none(run, repo):
    with pytest.raises(push.ConfigError, match="names no repository"):
        compose("task=push", f"task.path={run}", f"task.repo='{repo}'", "task.dry_run=true").execute()
    with pytest.raises(push.ConfigError, match="no run is named"):
        compose("task=push", "task.repo=nobody/small").execute()


def test_adapters_of_a_model_on_the_hub_go_along(run):
    rewrite(run / SAVED / "adapter" / "adapter_config.json", base_model_name_or_path="EleutherAI/pythia-70m")
    _, names, left_out = push.files(run)
    assert "adapter/adapter_model.safetensors" in names and not left_out
