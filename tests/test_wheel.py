"""What is shipped works by itself: the wheel, unpacked, away from the checkout."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.conftest import ROOT


@pytest.mark.slow
def test_the_wheel_carries_its_configuration(tmp_path: Path) -> None:
    pytest.importorskip("build")
    pytest.importorskip("hatchling")
    command = [
        sys.executable,
        "-m",
        "build",
        "--wheel",
        "--no-isolation",
        "--outdir",
        str(tmp_path / "dist"),
        str(ROOT),
    ]
    built = subprocess.run(command, capture_output=True, text=True)
    assert built.returncode == 0, built.stdout + built.stderr
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    shipped = {str(p.relative_to(ROOT)) for p in (ROOT / "conf").rglob("*.yaml") if "local" not in p.parts}
    assert shipped <= {str(p.relative_to(tmp_path / "site" / "rhtool")) for p in (tmp_path / "site").rglob("*.yaml")}
    (tmp_path / "empty").mkdir()

    def rhtool(*words: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "rhtool", *words], cwd=tmp_path / "empty", capture_output=True, text=True,
            env={**os.environ, "PYTHONPATH": str(tmp_path / "site")},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout

    where = "import rhtool; print(rhtool.__file__)"
    env = {**os.environ, "PYTHONPATH": str(tmp_path / "site")}
    imported = subprocess.run(
        [sys.executable, "-c", where], cwd=tmp_path / "empty", env=env, capture_output=True, text=True
    )
    assert imported.stdout.startswith(str(tmp_path / "site"))
    assert "tomato" in rhtool("task=ls") and "tomato" in rhtool("--help")
    assert "coeff: 0.25" in rhtool("coeff=0.25", "--cfg", "job")
    assert "-m divergence=none seed=0,1,2" in rhtool("experiment=correlated_proxies_tomato", "--help")
    assert list((tmp_path / "empty").iterdir()) == []
