"""What the kernel's refusal of a read lease means, by the kind of file system."""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path

import pytest

from orchestrator.runtime import lease
from orchestrator.runtime.lease import held_still, says_who_writes

NFS, CIFS, SMB2, SMB, NINE_P, FUSE = 0x6969, 0xFF534D42, 0xFE534D42, 0x517B, 0x01021997, 0x65735546
EXT4, XFS, BTRFS, TMPFS, OVERLAY = 0xEF53, 0x58465342, 0x9123683E, 0x01021994, 0x794C7630


@pytest.mark.parametrize("kind", [EXT4, XFS, BTRFS, TMPFS, OVERLAY])
def test_a_disk_of_this_machine_is_believed(kind: int) -> None:
    assert says_who_writes(kind)


@pytest.mark.parametrize("kind", [NFS, CIFS, SMB2, SMB, NINE_P, FUSE])
def test_a_share_refuses_whether_or_not_somebody_writes(kind: int) -> None:
    assert not says_who_writes(kind)


def test_the_kind_is_asked_of_the_kernel() -> None:
    proc = os.open("/proc/self/stat", os.O_RDONLY)
    try:
        assert lease.file_system_of(proc) == 0x9FA0
    finally:
        os.close(proc)
    assert lease.file_system_of(proc) is None


def test_on_a_share_what_is_refused_counts_as_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "p.yaml"
    path.write_text("whole")
    with path.open("a"), path.open() as file:
        with held_still(file.fileno()) as still:
            assert not still
        monkeypatch.setattr(lease, "file_system_of", lambda _descriptor: NFS)
        with held_still(file.fileno()) as still:
            assert still


def test_a_lease_that_the_kernel_took_back_spoils_nothing(tmp_path: Path) -> None:
    path = tmp_path / "p.yaml"
    path.write_text("whole")
    with path.open() as file, held_still(file.fileno()) as still:
        assert still
        fcntl.fcntl(file.fileno(), fcntl.F_SETLEASE, fcntl.F_UNLCK)
        with pytest.raises(OSError, match=os.strerror(errno.EAGAIN)):
            fcntl.fcntl(file.fileno(), fcntl.F_SETLEASE, fcntl.F_UNLCK)
