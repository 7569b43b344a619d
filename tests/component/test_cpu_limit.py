"""How many CPUs there are for us: by both versions of cgroups, and where processes may run."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.runtime.cpu_limit import cpus_allowed, default_threads, parse_threads

V1 = "4:cpuset:/\n3:cpu,cpuacct:/docker/abc\n1:memory:/docker/abc\n0::/\n"


def put(folder: Path, **files: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / f"cpu.{name}").write_text(f"{text}\n")


def allowed(root: Path, membership: str, *, usable: int = 8, cores: int = 8) -> int | None:
    return cpus_allowed(str(root), membership, usable=usable, cores=cores)


@pytest.mark.parametrize(
    ("limit", "threads"),
    [
        ("max 100000", None),
        ("200000 100000", 2),
        ("250000 100000", 2),
        ("50000 100000", 1),
        ("800000 100000", None),
        ("garbage", None),
        ("100000 0", None),
    ],
)
def test_the_quota_of_the_second_version(tmp_path: Path, limit: str, threads: int | None) -> None:
    put(tmp_path / "a" / "b", max=limit)

    assert allowed(tmp_path, "0::/a/b\n") == threads


def test_the_least_of_all_above_counts(tmp_path: Path) -> None:
    put(tmp_path / "a" / "b", max="400000 100000")
    put(tmp_path / "a", max="300000 100000")

    assert allowed(tmp_path, "0::/a/b\n") == 3


def test_the_first_version_seen_from_inside_a_container(tmp_path: Path) -> None:
    # The path is that of the host; what is mounted is the container's own folder.
    put(tmp_path / "cpu", cfs_quota_us="150000", cfs_period_us="100000")

    assert allowed(tmp_path, V1) == 1


def test_no_limit_in_the_first_version(tmp_path: Path) -> None:
    put(tmp_path / "cpu", cfs_quota_us="-1", cfs_period_us="100000")

    assert allowed(tmp_path, V1) is None


def test_fewer_cpus_to_run_on_are_a_limit(tmp_path: Path) -> None:
    assert allowed(tmp_path, "0::/\n", usable=3) == 3
    assert allowed(tmp_path, "0::/\n") is None


def test_what_a_person_says() -> None:
    assert parse_threads("7") == 7
    assert parse_threads("quota") == "quota"
    for wrong in ("0", "-1", "many", "٣", "1000"):
        with pytest.raises(ValueError, match="neither a number of threads"):
            parse_threads(wrong)
        assert default_threads(wrong) is None
    assert default_threads("7") == 7
    assert default_threads("") is None
    assert default_threads(None) is None
