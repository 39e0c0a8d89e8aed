"""How sweeps grow: composing and submitting their jobs, and what task=status and task=report take over their finished runs.

    python benchmarks/sweeps.py 100 1000 10000

The runs are one finished run of tomato, copied with other seeds and coefficients. Submitting is measured up to the call of sbatch, in
whose place stands a program that answers as it does: what SLURM itself takes is SLURM's.
"""

import contextlib
import io
import json
import os
import resource
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

SLURM = {
    "sbatch": "#!/bin/sh\necho Submitted batch job $$\n",
    "srun": "#!/bin/sh\n",
    "squeue": "#!/bin/sh\n",
    "scontrol": "#!/bin/sh\necho 'MaxArraySize            = 10001'\n",
}


@contextlib.contextmanager
def clock(what: str) -> Iterator[None]:
    """Print how long it took, in processor time, and the largest memory so far."""
    began, wall = time.process_time(), time.perf_counter()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        yield
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    took, wall = time.process_time() - began, time.perf_counter() - wall
    print(f"  {what:<34} {took:8.2f} s of processor time  {wall:8.2f} s  {peak:6.2f} GiB", flush=True)


def copies(of: Path, count: int) -> None:
    """Runs in `outputs/`, 50 seeds of each coefficient, as if each had been done."""
    result, record = (json.loads((of / name).read_text()) for name in ("result.json", "provenance.json"))
    config = (of / "config.yaml").read_text()
    for i in range(count):
        coeff, seed = i // 50, i % 50
        directory = Path(f"outputs/orpo/tomato/sqrt_chi2-coeff={coeff}-scale=smoke/seed={seed}")
        directory.mkdir(parents=True)
        own = {"coeff": float(coeff), "seed": seed}
        metrics = {key: (value or 0) * (1 + 0.01 * seed) for key, value in result["metrics"].items()}
        words = ["task=orpo", "env=tomato", "divergence=sqrt_chi2", "scale=smoke", f"coeff={coeff}", f"seed={seed}"]
        attempts = [record["attempts"][0] | {"dir": str(directory), "overrides": words, "directory": os.getcwd()}]
        (directory / "result.json").write_text(json.dumps(result | own | {"metrics": metrics}))
        (directory / "provenance.json").write_text(
            json.dumps(record | {"run": record["run"] | own, "attempts": attempts})
        )
        (directory / "config.yaml").write_text(config)
        (directory / "metrics.csv").write_bytes((of / "metrics.csv").read_bytes())


def main(counts: list[int]) -> None:
    from rhtool.cli import command
    from rhtool.config import compose

    with tempfile.TemporaryDirectory() as place:
        os.chdir(place)
        Path("bin").mkdir()
        for name, text in SLURM.items():
            Path("bin", name).write_text(text)
            Path("bin", name).chmod(0o755)
        os.environ["PATH"] = f"{place}/bin{os.pathsep}{os.environ['PATH']}"
        run = compose("task=orpo", "env=tomato", "divergence=sqrt_chi2", "scale=smoke", "task.exact=false", "dir=one")
        with contextlib.redirect_stderr(io.StringIO()):
            run.execute()
        for count in counts:
            print(f"{count} runs")
            words = ["task=orpo", "env=tomato", "divergence=sqrt_chi2", "scale=smoke", "-m"]
            words += [f"coeff={','.join(map(str, range(-(-count // 50))))}", "seed=range(0,50)"]
            with clock("compose and submit"):
                assert command([*words, "hydra/launcher=slurm", "submit=detach"]) == 0
            copies(Path("one"), count)
            for task in ("task=status", "task=report", "task=report task.plots=false"):
                with clock(task):
                    assert command([*task.split()]) == 0
            os.rename("outputs", f"outputs-{count}")


if __name__ == "__main__":
    main([int(word) for word in sys.argv[1:]] or [100, 1000])
