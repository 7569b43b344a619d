"""Where things are and what the environment asks for: read once, frozen.

What one profile sees of its caller's shell travels with its `apply` (`captured`), for the daemon's
own environment may be another's; what of that instances see is `inherited`.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from orchestrator.core.encoding import is_utf8
from orchestrator.errors import InputError

_CAPTURED = frozenset(
    {"PATH", "HOME", "XDG_CACHE_HOME", "OLLAMA_MODELS", "LLAMA_CACHE", "HUGGINGFACE_HUB_CACHE"}
)
_CAPTURED_PREFIXES = ("ORCHESTRATE_", "HF_")
_NEVER_CAPTURED = frozenset(
    {
        *("ORCHESTRATE_TOKEN", "ORCHESTRATE_LISTEN", "ORCHESTRATE_HOSTS"),
        *("ORCHESTRATE_STATE_DIR", "ORCHESTRATE_OWNER"),
    }
)

_ENGINES_OWN = ("LLAMA_", "MTMD_", "OLLAMA_", "ORCHESTRATE_")
_NOT_INHERITED = frozenset({"NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "LISTEN_FDS"})


@dataclass(frozen=True, slots=True)
class Listen:
    """Where the control API is served over TCP. Port 0 is any that is free."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Settings:
    """`state_dir`: store, socket and logs; one daemon for each. `cache_dir`: can be deleted."""

    state_dir: str
    cache_dir: str
    profiles_dir: str
    memory: int | None = None
    """Bytes that instances may take together; None is all that there is."""
    listen: Listen | None = None
    """Where the control API is served besides its socket; None is nowhere."""
    token: str = field(default="", repr=False)
    """What lets in over TCP; empty is one of our own making."""
    hosts: tuple[str, ...] = ()
    """Names by which it may be asked over TCP, besides addresses and this machine's own."""
    threads: int | str | None = None
    """The threads of an engine that is told nothing else: as `parse_threads` has it."""

    @classmethod
    def from_env(cls, env: Mapping[str, str]) -> Settings:
        return cls(
            state_dir=_folder(env, "ORCHESTRATE_STATE_DIR", "state"),
            cache_dir=_folder(env, "ORCHESTRATE_CACHE_DIR", "cache"),
            profiles_dir=os.path.abspath(env.get("ORCHESTRATE_PROFILES") or "profiles"),
            memory=_size(env, "ORCHESTRATE_MEMORY"),
            listen=_listen(env, "ORCHESTRATE_LISTEN"),
            token=_token(env, "ORCHESTRATE_TOKEN"),
            hosts=tuple(env.get("ORCHESTRATE_HOSTS", "").replace(",", " ").split()),
            threads=_threads(env, "ORCHESTRATE_THREADS"),
        )

    @property
    def socket_path(self) -> str:
        return os.path.join(self.state_dir, "control.sock")

    @property
    def token_path(self) -> str:
        """Where the token of the control API is kept, if none is given."""
        return os.path.join(self.state_dir, "token")

    @property
    def store_path(self) -> str:
        return os.path.join(self.state_dir, "state.db")

    @property
    def lock_path(self) -> str:
        return os.path.join(self.state_dir, "daemon.lock")

    @property
    def daemon_log(self) -> str:
        return os.path.join(self.state_dir, "daemon.log")

    @property
    def logs_dir(self) -> str:
        return os.path.join(self.state_dir, "logs")

    @property
    def run_dir(self) -> str:
        """The folder that instances run in: always the same, wherever a profile lies."""
        return self.state_dir

    def prepare(self) -> None:
        """Make the state folder, for us alone. Raises `InputError` when it cannot be used."""
        try:
            self._is_no_link()
            os.makedirs(self.state_dir, mode=0o700, exist_ok=True)
            owner = os.stat(self.state_dir).st_uid
            if owner != os.getuid():
                raise InputError(
                    f"state folder {self.state_dir} belongs to uid {owner}",
                    hint="name one of your own with ORCHESTRATE_STATE_DIR",
                )
            self._keep_to_ourselves()
            self._socket_is_ours()
        except OSError as error:
            raise InputError(
                f"state folder {self.state_dir} cannot be used: {error.strerror}",
                hint="name another with ORCHESTRATE_STATE_DIR",
            ) from error

    def _is_no_link(self) -> None:
        """Whoever made a link may lead it elsewhere tomorrow, and all of our state with it."""
        if os.path.islink(self.state_dir):
            raise InputError(
                f"state folder {self.state_dir} is a symbolic link",
                hint=f"ORCHESTRATE_STATE_DIR={os.path.realpath(self.state_dir)} names the folder",
            )

    def _socket_is_ours(self) -> None:
        try:
            owner = os.lstat(self.socket_path).st_uid
        except FileNotFoundError:
            return
        if owner != os.getuid():
            raise InputError(
                f"{self.socket_path} belongs to uid {owner}",
                hint="remove it, if you know why it is there",
            )

    def _keep_to_ourselves(self) -> None:
        """Close a folder that others may look into, unless it is plainly not a state folder."""
        if not os.stat(self.state_dir).st_mode & 0o077:
            return
        there = os.listdir(self.state_dir)
        if there and os.path.basename(self.lock_path) not in there:
            raise InputError(
                f"state folder {self.state_dir} is open to others and holds other things",
                hint="name a folder of its own with ORCHESTRATE_STATE_DIR",
            )
        os.chmod(self.state_dir, 0o700)


def parse_listen(said: str, where: str) -> Listen:
    """`HOST:PORT`, `[::1]:PORT`, or on loopback `:PORT` and `PORT`. Raises `InputError`."""
    host, _, port = said.strip().rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise InputError(
            f"{where}: {said!r} is not clear: an address of IPv6 stands in brackets",
            hint="as in [::1]:7717",
        )
    if not (port.isascii() and port.isdigit() and len(port) <= 5 and int(port) <= 65535):
        raise InputError(
            f"{where}: expected HOST:PORT, got {said!r}",
            hint="as in 127.0.0.1:7717; a PORT alone is on loopback",
        )
    return Listen(host or "127.0.0.1", int(port))


def _listen(env: Mapping[str, str], variable: str) -> Listen | None:
    said = env.get(variable)
    return parse_listen(said, variable) if said else None


def _token(env: Mapping[str, str], variable: str) -> str:
    if not (said := env.get(variable)):
        return ""
    if not all("!" <= one <= "~" for one in said):
        raise InputError(
            f"{variable} is no token: expected printable ASCII without spaces",
            hint="as of `openssl rand -hex 32`",
        )
    return said


def _size(env: Mapping[str, str], variable: str) -> int | None:
    if not (said := env.get(variable)):
        return None
    from orchestrator.core.units import parse_size

    try:
        return parse_size(said)
    except ValueError as error:
        raise InputError(f"{variable}: {error}") from error


def _threads(env: Mapping[str, str], variable: str) -> int | str | None:
    if not (said := env.get(variable)):
        return None
    from orchestrator.runtime.cpu_limit import parse_threads

    try:
        return parse_threads(said)
    except ValueError as error:
        raise InputError(f"{variable}: {error}") from error


def _folder(env: Mapping[str, str], variable: str, kind: str) -> str:
    if named := env.get(variable):
        return os.path.abspath(os.path.expanduser(named))
    import platformdirs

    find = platformdirs.user_state_dir if kind == "state" else platformdirs.user_cache_dir
    return find("orchestrate", appauthor=False)


def captured(env: Mapping[str, str], names: Iterable[str]) -> dict[str, str]:
    """What an `apply` hands over of the caller's shell; `names` are those its profiles refer to."""
    wanted = set(names)
    return {
        name: value
        for name, value in env.items()
        if is_utf8(name + value)
        and (
            name in wanted
            or name in _CAPTURED
            or (name.startswith(_CAPTURED_PREFIXES) and name not in _NEVER_CAPTURED)
        )
    }


def inherited(env: Mapping[str, str]) -> dict[str, str]:
    """What instances inherit: all but what silently changes an engine, or is ours alone."""
    return {
        name: value
        for name, value in env.items()
        if name == "LLAMA_CACHE" or not (name.startswith(_ENGINES_OWN) or name in _NOT_INHERITED)
    }
