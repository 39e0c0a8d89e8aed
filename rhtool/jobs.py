"""Commands of a sweep, run side by side: `python -m rhtool.jobs DIRECTORY` is a task of a SLURM array.

Signals are handed on to the runs, which write a checkpoint and end. SIGUSR2, which SLURM sends before the time limit, puts the task
back into the queue; repeated, its commands go on from their checkpoints.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from rhtool.launchers import JOBS, command_of, said

FORWARDED = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2)


class Jobs:
    """Commands, at most `at_once` of them at a time.

    Args:
        jobs: as `launchers.job_of` has them.
        at_once: processes at a time.
    """

    def __init__(self, jobs: list[dict[str, Any]], at_once: int):
        self.waiting, self.at_once = list(jobs), at_once
        self.processes: list[subprocess.Popen] = []
        self.received: signal.Signals | None = None

    def run(self) -> list[int]:
        """Run them to their ends; the exit codes of those that were started. After a signal no more are started."""
        before = {signum: signal.signal(signum, self._hand_on) for signum in FORWARDED}
        codes = []
        try:
            while self.processes or (self.waiting and self.received is None):
                while self.waiting and self.received is None and len(self.processes) < self.at_once:
                    self._start(self.waiting.pop(0))
                time.sleep(0.05)
                codes += [p.returncode for p in self.processes if p.poll() is not None]
                self.processes = [p for p in self.processes if p.returncode is None]
        finally:
            for signum, handler in before.items():
                signal.signal(signum, handler)
        if self.received == signal.SIGINT:
            raise KeyboardInterrupt
        if self.received == signal.SIGTERM:
            sys.exit(128 + self.received)
        return codes

    def _start(self, job: dict[str, Any]) -> None:
        words, environment = command_of(job)
        # A session of its own: a terminal's Ctrl-C reaches it through us alone, and once.
        process = subprocess.Popen(words, cwd=job["cwd"], env=os.environ | environment, start_new_session=True)
        self.processes.append(process)

    def _hand_on(self, signum: int, frame: Any) -> None:
        self.received = signal.Signals(signum)
        for process in self.processes:
            if process.poll() is None:
                process.send_signal(signum)


def main(folder: Path) -> int:
    """Do the part of a submission that is this task's; the exit code. Of a task on several nodes the first does it, and
    runs that are spread over the others start them there."""
    if int(os.environ.get("SLURM_PROCID") or 0):
        return 0
    content = json.loads((folder / JOBS).read_text())
    index, pack = int(os.environ.get("SLURM_ARRAY_TASK_ID", 0)), content["pack"]
    jobs = Jobs(content["jobs"][index * pack : (index + 1) * pack], pack)
    codes = jobs.run()
    restarts = int(os.environ.get("SLURM_RESTART_COUNT") or 0)
    if jobs.received == signal.SIGUSR2 and any(code == 128 + signal.SIGUSR2 for code in codes):
        if restarts < content["max_requeues"]:
            print(f"requeued, {restarts + 1} of at most {content['max_requeues']} times", flush=True)
            # Not SLURM_JOB_ID, which for an array's last task is that of the whole array.
            said(["scontrol", "requeue", "{SLURM_ARRAY_JOB_ID}_{SLURM_ARRAY_TASK_ID}".format(**os.environ)])
            time.sleep(60)  # until SLURM ends this step
        print("the time limit has come too often (hydra.launcher.max_requeues)", flush=True)
    return max((abs(code) for code in codes), default=0)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
