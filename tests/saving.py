"""How programs save a file, call by call: each a generator that stops where somebody may look.

What is to be seen at a stop is not for the watcher to believe: half a file, none, or an empty one.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

Way = Callable[[Path, str], Iterator[None]]
"""Brings a text into a file."""

PAUSE = 0.06
"""Seconds in which a daemon that is told of a change has looked."""


def save(way: Way, path: Path, text: str) -> None:
    """All of it, with a pause at each stop."""
    for _ in way(path, text):
        time.sleep(PAUSE)


def halves(text: str) -> tuple[str, str]:
    """Cut where a line ends: the first one may well mean something by itself."""
    middle = text.index("\n", len(text) // 2) + 1
    return text[:middle], text[middle:]


def _written(descriptor: int, text: str) -> Iterator[None]:
    """In two pieces, and closed."""
    try:
        for piece in halves(text):
            os.write(descriptor, piece.encode())
            yield
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _whole(path: Path, text: str) -> None:
    """An own file beside it, of which nobody looks at the middle."""
    path.write_text(text)


def in_place(path: Path, text: str) -> Iterator[None]:
    """Over what is there, and cut to its length at the end."""
    descriptor = os.open(path, os.O_RDWR)
    os.ftruncate(descriptor, 0)
    yield
    yield from _written(descriptor, text)


def cut_then_write(path: Path, text: str) -> Iterator[None]:
    """`: > file`, and somewhat later `cat > file`: closed in between."""
    path.write_text("")
    yield
    yield from _written(os.open(path, os.O_WRONLY | os.O_TRUNC), text)


def write_rename(path: Path, text: str) -> Iterator[None]:
    """Aside and renamed, as `sed -i`, `rsync`, and everything careful does."""
    aside = path.with_name(f"sed{os.getpid()}")
    _whole(aside, text)
    yield
    aside.replace(path)


def removed_and_new(path: Path, text: str) -> Iterator[None]:
    """As `git checkout` does."""
    path.unlink()
    yield
    yield from _written(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644), text)


def vim_copies(path: Path, text: str) -> Iterator[None]:
    """`backupcopy=yes`: a copy for the backup, then in place."""
    swap, backup = path.with_name(f".{path.name}.swp"), path.with_name(f"{path.name}~")
    _whole(swap, "swap")
    shutil.copy(path, backup)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT, 0o644)
    os.ftruncate(descriptor, 0)
    yield
    yield from _written(descriptor, text)
    backup.unlink()
    swap.unlink()


def vim_renames(path: Path, text: str) -> Iterator[None]:
    """`backupcopy=no`: the old one becomes the backup."""
    swap, backup = path.with_name(f".{path.name}.swp"), path.with_name(f"{path.name}~")
    _whole(swap, "swap")
    path.rename(backup)
    yield
    yield from _written(os.open(path, os.O_WRONLY | os.O_CREAT, 0o644), text)
    path.chmod(0o644)
    backup.unlink()
    swap.unlink()


def vim_decides(path: Path, text: str) -> Iterator[None]:
    """`backupcopy=auto`: a file called 4913 tries whether renaming would do."""
    probe = path.with_name("4913")
    os.close(os.open(probe, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o644))
    yield
    probe.unlink()
    yield from vim_renames(path, text)


def nano(path: Path, text: str) -> Iterator[None]:
    """With a lock file, then in place."""
    lock = path.with_name(f".{path.name}.swp")
    _whole(lock, "lock")
    yield
    yield from _written(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666), text)
    lock.unlink()


def vs_code(path: Path, text: str) -> Iterator[None]:
    """Opened for writing, which cuts it, and then written."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
    yield
    yield from _written(descriptor, text)


def vs_code_atomic(path: Path, text: str) -> Iterator[None]:
    aside = path.with_name(f"{path.name}.vsctmp")
    _whole(aside, text)
    yield
    aside.replace(path)


def emacs(path: Path, text: str) -> Iterator[None]:
    """A link that points nowhere is the lock, the old file becomes the backup."""
    lock, backup = path.with_name(f".#{path.name}"), path.with_name(f"{path.name}~")
    lock.symlink_to("somebody@here.123:456")
    yield
    path.rename(backup)
    yield
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
    yield from _written(os.open(path, flags, 0o666), text)
    path.chmod(0o644)
    lock.unlink()
    backup.unlink()


def jetbrains(path: Path, text: str) -> Iterator[None]:
    """Two renames, and nothing there between them."""
    new, old = (path.with_name(f"{path.name}___jb_{which}___") for which in ("tmp", "old"))
    _whole(new, text)
    path.rename(old)
    yield
    new.rename(path)
    old.unlink()


WAYS: Mapping[str, Way] = {
    way.__name__: way
    for way in (
        in_place,
        cut_then_write,
        write_rename,
        removed_and_new,
        vim_copies,
        vim_renames,
        vim_decides,
        nano,
        vs_code,
        vs_code_atomic,
        emacs,
        jetbrains,
    )
}


def publish(folder: Path, files: Mapping[str, str]) -> None:
    """What a Kubernetes node does with a ConfigMap: all files change with one rename.

    `name -> ..data/name`, and `..data -> ..VERSION`, where the files are.
    """
    folder.mkdir(exist_ok=True)
    data = folder / "..data"
    before = folder / os.readlink(data) if data.is_symlink() else None
    version = folder / f"..{time.time_ns()}"
    version.mkdir()
    for name, text in files.items():
        (version / name).write_text(text)
    swap = folder / "..data_tmp"
    swap.symlink_to(version.name)
    swap.replace(data)
    for name in files:
        if not (folder / name).is_symlink():
            (folder / name).symlink_to(f"..data/{name}")
    for link in folder.iterdir():
        if link.is_symlink() and not link.name.startswith("..") and link.name not in files:
            link.unlink()
    if before is not None:
        shutil.rmtree(before)


def point(link: Path, target: str | Path) -> None:
    """Make a link point there, or point there from now on: by one rename, as `ln -sfT` does."""
    aside = link.with_name(f"{link.name}.new")
    aside.symlink_to(target)
    aside.replace(link)
