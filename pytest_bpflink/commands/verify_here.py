"""Has this kernel verify each program of an object, and writes what that cost, as JSON.

    python -m pytest_bpflink.commands.verify_here FILE.bpf.o

`bpflink verify` runs it on each kernel.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

from pytest_bpflink.bpf.objects import Object
from pytest_bpflink.bpf.verification import ask_for_statistics, parse
from pytest_bpflink.errors import BpfError, VerifierError, errno_name


def main() -> None:
    """Write a list with an entry for each program."""
    file = Path(sys.argv[1])
    with Object.open(file) as opened:
        programs = {name: program.section for name, program in opened.programs.items()}
    json.dump(
        [
            {"release": os.uname().release, "program": name, "section": section}
            | _verified(file, name)
            for name, section in programs.items()
        ],
        sys.stdout,
    )


def _verified(file: Path, name: str) -> dict[str, Any]:
    """Load one program, and return what that cost, or why the kernel refused."""
    with Object.open(file) as opened:
        program = _only(opened, name)
        log = ask_for_statistics(program.pointer, doing=f"verify program {name}")
        try:
            opened.load()
        except BpfError:
            return _refused(file, name)
        found = parse(log.value.decode(errors="replace"))
        return {
            "verifies": True,
            "instructions": found.insns if found else 0,
            "states": found.states if found else 0,
            "stack": sum(found.stack_depths) if found else 0,
            "microseconds": found.time if found else 0,
            "size": program.jited_size,
        }


def _refused(file: Path, name: str) -> dict[str, Any]:
    """Load the program as anybody would: libbpf then has the whole log of the verifier."""
    error, log = "it was refused once, and verified then", ""
    with Object.open(file) as opened:
        _only(opened, name)
        try:
            opened.load()
        except VerifierError as refusal:
            error, log = errno_name(refusal.errno or 0), refusal.verifier_log
        except BpfError as refusal:
            error, log = errno_name(refusal.errno or 0), refusal.log
    return {"verifies": False, "error": error, "log": log.splitlines()}


def _only(opened: Object, name: str) -> Any:
    for each in opened.programs.values():
        each.set_autoload(each.name == name)
    return opened.program(name)


if __name__ == "__main__":
    main()
