"""Uploads to the Hugging Face hub: what may leave this machine, and how it goes. The token is that of `HF_TOKEN` or of
`hf auth login`; it is handed on to nothing else and never shown."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import safetensors
from huggingface_hub import CommitOperationAdd, HfApi, constants, get_token
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled
from huggingface_hub.utils import validate_repo_id

from rhtool.errors import ConfigError, RhtoolError
from rhtool.lm import card
from rhtool.locks import under_way
from rhtool.models import SAVED
from rhtool.records import result_of

DATA = {".safetensors", ".json", ".jinja", ".txt", ".md"}
"""endings of the files that are uploaded: loading them runs nobody's code"""
NEEDED = ("config.json", "tokenizer.json", "tokenizer_config.json", card.CARD)
SETTINGS = ("config.json", "generation_config.json", "tokenizer_config.json", "adapter_config.json")
"""files in which a directory of this machine would tell something about it"""
ADAPTER = "adapter"


def check_repo(repo: str) -> None:
    """Raise `ConfigError` unless it is user/name, as the hub wants it."""
    try:
        validate_repo_id(repo)
        if repo.count("/") != 1:
            raise HFValidationError("it has no owner")
    except HFValidationError as error:
        raise ConfigError(f"'{repo}' names no repository: {error}", "task.repo", "write task.repo=user/name") from error


def token() -> str:
    """The user's token. Raises `RhtoolError` if there is none."""
    if not (found := get_token()):
        mend = "log in with: hf auth login, or put a token with the right to write into HF_TOKEN"
        raise RhtoolError("there is no token for the Hugging Face hub", "HF_TOKEN", mend)
    return found


def files(run: Path | None) -> tuple[Path, list[str], dict[str, str]]:
    """Of the model of a finished run: its folder, the names of the files to upload, and `{name: why}` of what is left out.

    Raises `RhtoolError` for a run that is not finished, a folder that lacks something, a file that is damaged, could run
    code when loaded, is a link, or names a directory of this machine.
    """
    if run is None:
        raise ConfigError("no run is named", "task.path", "give the directory of a finished run: outputs/sft/…/seed=0")
    folder = run / SAVED
    result = result_of(run)
    if under_way(run) or (result or {}).get("status") != "done":
        mend = "give the directory of a finished run, or repeat the command of this one: it goes on"
        raise RhtoolError("there is no finished run", str(run), mend)
    if not folder.is_dir():
        mend = "give a run of task=sft, rlhf_ppo, or of rm_train with data=..."
        raise RhtoolError("the run has made no language model", str(run), mend)
    names = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_symlink() or not p.is_dir())
    weights = ["model.safetensors"]
    if "model.safetensors.index.json" in names:
        weights = sorted({*_json(folder / "model.safetensors.index.json")["weight_map"].values()})
    if missing := [name for name in (*NEEDED, *weights) if name not in names]:
        mend = "repeat the run's command with fresh=true"
        raise RhtoolError(f"the model lacks {', '.join(missing)}", str(folder), mend)
    left_out = {}
    settings = folder / ADAPTER / "adapter_config.json"
    if settings.is_file() and not card.HUB_NAME.fullmatch(base := _json(settings)["base_model_name_or_path"] or ""):
        left_out[f"{ADAPTER}/"] = (
            f"adapters of {card.public(base)}, which is not on the hub; the weights have them merged"
        )
        names = [name for name in names if not name.startswith(f"{ADAPTER}/")]
    for name in names:
        _check(folder / name)
    return folder, names, left_out


def _check(file: Path) -> None:
    if file.is_symlink() or not file.is_file():
        raise RhtoolError(
            "only plain files are uploaded, no links", str(file), "put the file itself there, or delete it"
        )
    if file.suffix not in DATA:
        mend = "delete it, or move it out of the folder"
        raise RhtoolError("this is neither safetensors nor text, and loading it may run code", str(file), mend)
    if file.suffix == ".safetensors":
        try:
            with safetensors.safe_open(file, "np"):
                pass
        except (safetensors.SafetensorError, OSError) as error:
            mend = "repeat the run's command with fresh=true"
            raise RhtoolError(f"the weights are damaged: {error}", str(file), mend) from error
    if file.name in SETTINGS:
        for key, value in _json(file).items():
            if isinstance(value, str) and Path(value).expanduser().is_absolute():
                raise RhtoolError(f"its '{key}' names a directory of this machine", str(file), "delete it there")


def _json(file: Path) -> dict[str, Any]:
    try:
        return json.loads(file.read_text())
    except ValueError as error:
        raise RhtoolError(f"it is no JSON: {error}", str(file), "repeat the run's command with fresh=true") from error


def upload(folder: Path, names: list[str], repo: str, private: bool, overwrite: bool, license: str = "") -> str:
    """Make the repository if there is none, and add the files in one commit; its address.

    Raises `RhtoolError` for a repository that holds something already (unless `overwrite`), without rights or network.
    """
    api = HfApi(token=token())
    text = (folder / card.CARD).read_text().replace(card.NAME, repo)
    if license:
        keys, body = card.parsed(text)
        text = card.front(keys | {"license": license}) + body
    content: dict[str, Any] = {name: folder / name for name in names} | {card.CARD: text.encode()}
    with _explained(repo):
        if api.repo_exists(repo):
            held = [name for name in api.list_repo_files(repo) if name != ".gitattributes"]
            if held and not overwrite:
                mend = "choose another task.repo, or add a commit to this one: task.overwrite=true"
                raise RhtoolError(f"the repository holds {len(held)} files already", repo, mend)
        else:
            api.create_repo(repo, private=private)
        operations = [CommitOperationAdd(path_in_repo=name, path_or_fileobj=data) for name, data in content.items()]
        return api.create_commit(repo, operations, commit_message="Upload a model made by rhtool").commit_url


@contextlib.contextmanager
def _explained(repo: str) -> Iterator[None]:
    """Turn what the hub and the network say into `RhtoolError`."""
    try:
        yield
    except RhtoolError:
        raise
    except OfflineModeIsEnabled as error:
        mend = "unset HF_HUB_OFFLINE; task.dry_run=true needs no network"
        raise RhtoolError("the network is switched off", "HF_HUB_OFFLINE", mend) from error
    except HfHubHTTPError as error:
        code, mend = error.response.status_code, f"see {constants.ENDPOINT}"
        if code in (401, 403):
            mend = f"log in as one who may write to {repo}: hf auth login, or another HF_TOKEN; see hf auth whoami"
        raise RhtoolError(
            f"the hub refuses ({code}): {_first_line(error.server_message or error)}", repo, mend
        ) from error
    except Exception as error:  # of connections: of httpx, of its successor, of the uploader in Rust
        mend = "look at the network, or at HF_ENDPOINT; then repeat the command"
        raise RhtoolError(f"the upload broke off: {_first_line(error)}", constants.ENDPOINT, mend) from error


def _first_line(error: Any) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
