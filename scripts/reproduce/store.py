"""Keep the results of finished runs in docs/reproductions/, from which tables.py makes the tables of docs/reproductions.md.

    python scripts/reproduce/store.py outputs/correlated_proxies_tomato [more directories of runs]

Of every finished run: result.json as it is, and of provenance.json what composed the run, the versions, and the number
of CPUs, threads and GPUs. Names of machines, users and directories stay behind. The places below docs/reproductions/
are those below outputs/, and `rhtool task=report task.runs=docs/reproductions task.to=...` reads them.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from rhtool.records import PROVENANCE, RESULT, provenance_of, result_of

STORE = Path(__file__).resolve().parents[2] / "docs" / "reproductions"
KEPT = ("overrides", "cpus", "threads", "gpus", "git", "versions")
"""what is kept of an attempt"""


def store(source: Path, to: Path = STORE) -> int:
    """Store the finished runs below `source`, `outputs/<experiment>` or a part of it; how many there are.

    A stored run of the same place is replaced; one that has no result any more stays.
    """
    found = 0
    for file in sorted(source.rglob(RESULT)):
        result, record = result_of(file.parent), provenance_of(file.parent)
        if ".old" in file.parts or not result or not record or result["status"] != "done":
            continue
        group = result["experiment"] or result["task"]
        parts = file.parent.resolve().parts
        if group not in parts:
            raise SystemExit(f"{file.parent} is not below a directory {group}")
        place = to.joinpath(*parts[len(parts) - 1 - parts[::-1].index(group) :])
        place.mkdir(parents=True, exist_ok=True)
        (place / RESULT).write_bytes(file.read_bytes())
        (place / PROVENANCE).write_text(json.dumps(without_machine(record), indent=1) + "\n")
        found += 1
    return found


def without_machine(record: dict[str, Any]) -> dict[str, Any]:
    """`provenance.json` without names of machines, users and directories."""
    attempts = [{key: attempt.get(key) for key in KEPT} for attempt in record["attempts"]]
    return {key: record[key] for key in ("schema", "fingerprint", "run")} | {"identity": None, "attempts": attempts}


if __name__ == "__main__":
    if not sys.argv[1:]:
        raise SystemExit(__doc__)
    for name in sys.argv[1:]:
        print(f"{store(Path(name))} finished runs of {name} are in {STORE}")
