"""A run as JSON, in full, for programs. `schema.json` describes the file."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

from pytest_bpflink.reports.results import OUTCOMES

if TYPE_CHECKING:
    from pytest_bpflink.reports.results import Difference, Result, Run, RunKernel, Section

#: Raised when a field is removed or changes its meaning; a new field does not raise it.
SCHEMA_VERSION: Final = 1


def render(run: Run) -> str:
    """Return the file's content."""
    return json.dumps(document(run), separators=(",", ":")) + "\n"


def document(run: Run) -> dict[str, Any]:
    """Return the content as data. Texts that several results share are there once."""
    details: dict[tuple[Section, ...], int] = {}
    differences = run.differences()
    tests = [
        {
            "id": test,
            "parametrized": test not in run.run_once,
            "changes": _changes(differences.get(test)),
            "results": {kernel: _result(result, details) for kernel, result in results.items()},
        }
        for test, results in run.tests.items()
    ]
    return {
        "schema_version": SCHEMA_VERSION,
        "project": run.project,
        "began": run.began.isoformat(timespec="seconds"),
        "seconds": round(run.seconds, 3),
        "exit_status": run.exit_status,
        "stopped": run.stopped or None,
        "kernels": [_kernel(run, each) for each in run.kernels],
        "tests": tests,
        "uncollected": [
            {
                "nodeid": each.nodeid,
                "outcome": each.outcome,
                "reason": each.reason,
                "text": each.text,
                "kernels": list(each.kernels),
            }
            for each in run.uncollected
        ],
        "programs": [
            {
                "object": program.object,
                "program": program.name,
                "costs": {kernel: cost._asdict() for kernel, cost in costs.items()},
            }
            for program, costs in sorted(run.costs.items())
        ],
        "details": [[section._asdict() for section in sections] for sections in details],
    }


def _kernel(run: Run, row: RunKernel) -> dict[str, Any]:
    kernel = row.kernel
    counts = run.counts(kernel.id)
    return {
        "id": kernel.id,
        "spec": kernel.spec,
        "release": kernel.release,
        "version": kernel.version,
        "where": kernel.where,
        "where_reason": kernel.reason,
        "libbpf": kernel.libbpf_release,
        "libbpf_path": kernel.libbpf,
        "boot_seconds": None if row.boot_seconds is None else round(row.boot_seconds, 3),
        "guests_lost": row.guests_lost,
        "problem": row.problem or None,
        "items": counts.total(),
        "counts": {outcome: counts[outcome] for outcome in OUTCOMES},
    }


def _changes(difference: Difference | None) -> dict[str, Any] | None:
    if difference is None:
        return None
    return {"at": difference.changes_at, "by_outcome": dict(difference.by_outcome)}


def _result(result: Result, details: dict[tuple[Section, ...], int]) -> dict[str, Any]:
    index = details.setdefault(result.sections, len(details)) if result.sections else None
    return {
        "nodeid": result.nodeid,
        "outcome": result.outcome,
        "ran": result.ran,
        "seconds": round(result.seconds, 4),
        "reason": result.reason or None,
        "details": index,
    }
