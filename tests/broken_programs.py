"""Programs that cannot run, each for another reason; and a control group that is too small."""

from __future__ import annotations

import shutil
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4


def write_all(folder: Path, llama_server: str | None = None) -> dict[str, Path]:
    """Every kind by its name; `library` only with a llama-server to take away from its own."""
    folder.mkdir(exist_ok=True)
    texts = {
        "interpreter": "#!/no/such/interpreter\n",
        "env": "#!/usr/bin/env no-such-program\n",
        "exec": "#!/bin/sh\nexec no-such-program\n",
        "may-not": f"#!/bin/sh\nexec {folder}/plain\n",
        "instruction": "#!/bin/sh\nkill -ILL $$\n",
        "plain": "no program at all\n",
    }
    found: dict[str, Path] = {}
    for name, text in texts.items():
        found[name] = folder / f"{name}.program"
        found[name].write_text(text)
        found[name].chmod(0o755)
    (folder / "plain").write_text("may not be run\n")
    found["glibc"] = folder / "glibc.program"
    found["glibc"].write_bytes(_program().replace(b"GLIBC_2.34\0", b"GLIBC_9.34\0"))
    found["glibc"].chmod(0o755)
    found["alien"] = folder / "alien.program"
    # The machine's number in the header: 0xF7 is BPF, on which no program runs.
    found["alien"].write_bytes(_program()[:18] + b"\xf7\0" + _program()[20:])
    found["alien"].chmod(0o755)
    if llama_server is not None:
        # Its libraries lie beside the original, and are found from there.
        found["library"] = folder / "library.program"
        shutil.copy(llama_server, found["library"])
    return found


def _program() -> bytes:
    return Path(shutil.which("true") or "/usr/bin/true").read_bytes()


@contextmanager
def small_group(limit: int) -> Generator[Path | None]:
    """A control group that may have `limit` bytes of memory; None where none can be made.

    A process joins by writing its pid to the file `cgroup.procs`. Ended with the last of them.
    """
    made = _made(limit)
    try:
        yield made
    finally:
        if made is not None:
            made.rmdir()


def _made(limit: int) -> Path | None:
    for root, files in (
        (Path("/sys/fs/cgroup"), ("memory.max", "memory.swap.max")),
        (Path("/sys/fs/cgroup/memory"), ("memory.limit_in_bytes",)),
    ):
        group = root / f"test-{uuid4().hex[:8]}"
        try:
            group.mkdir()
        except OSError:
            continue
        if (group / files[0]).exists():
            (group / files[0]).write_text(str(limit))
            for other in files[1:]:
                if (group / other).exists():
                    (group / other).write_text("0")
            return group
        group.rmdir()
    return None
