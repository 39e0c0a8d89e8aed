"""Who may import what, by the source; and what a question on the command line imports, by asking."""

from __future__ import annotations

import ast
import importlib.util
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import ROOT

PACKAGE = ROOT / "rhtool"
SOURCES = sorted(PACKAGE.rglob("*.py"))
HEAVY = {
    "numpy",
    "asyncio",
    "torch",
    "ray",
    "transformers",
    "trl",
    "matplotlib",
    "pandas",
    "numba",
    "gymnasium",
    "scipy",
    "pyarrow",
    "wandb",
}
HUGGING_FACE = {"huggingface_hub", "transformers", "trl", "accelerate", "peft", "datasets", "deepspeed"}
MATHEMATICS = {"lm/bon.py", "lm/hedging.py", "lm/ppo_math.py", "rewards/combine.py"}
"""of language models too, but of arrays alone"""

REFUSES = {"interpret/legacy.py"}
"""derives an unpickler from the standard one, in which no name leads to code"""


def imports(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.split(".")[0]


def calls(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_layers(path: Path) -> None:
    tree, folder = ast.parse(path.read_text()), path.relative_to(PACKAGE).parts[0]
    imported, called = {*imports(tree)}, {*calls(tree)}
    if folder != "rl":
        assert "ray" not in imported
    if folder != "lm" or path.relative_to(PACKAGE).as_posix() in MATHEMATICS:
        assert not imported & (HUGGING_FACE - ({"datasets"} if folder == "data" else set()))
    if folder == "envs":
        assert "torch" not in imported
    pickles = set() if path.relative_to(PACKAGE).as_posix() in REFUSES else {"pickle"}
    assert not imported & {*pickles, "dill", "cloudpickle", "joblib", "shelve", "marshal"}
    assert not called & {
        "torch.load",
        "torch.save",
        "eval",
        "exec",
        "yaml.load",
        "pickle.load",
        "pickle.loads",
        "compile",
        "__import__",
    }
    assert not any(isinstance(k, ast.keyword) and k.arg == "allow_pickle" for k in ast.walk(tree))
    assert path.name != "utils.py"


ASK = """
import sys
sys.argv = ["rhtool", *{words!r}]
from rhtool.cli import cli
try:
    cli()
except SystemExit as end:
    assert not end.code, end.code
print("LOADED", *sorted({{name.split(".")[0] for name in sys.modules}}))
"""


@pytest.mark.parametrize(
    "words", [["--help"], ["task=ls", "--help"], ["task=ls", "--cfg", "job", "coeff=0.5"]], ids=" ".join
)
def test_asking_imports_nothing_heavy(words: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-c", ASK.format(words=words)],
        capture_output=True, text=True, cwd=os.sep, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    loaded = set(done.stdout.rpartition("LOADED")[2].split())
    assert "rhtool" in loaded and not loaded & HEAVY
    assert all(importlib.util.find_spec(name) for name in ("numba", "gymnasium", "pandas"))  # it could have
