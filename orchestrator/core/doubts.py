"""What is valid, and yet most likely not meant: said by `validate`, and never in the way. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from orchestrator.core.address import is_loopback
from orchestrator.core.blocks import GatewayConfig
from orchestrator.core.catalog import Model
from orchestrator.core.engine import Issue, Path
from orchestrator.core.loading import loading_of
from orchestrator.core.spec import InstanceSpec

IsForeign = Callable[[str], bool]
"""Whether an address, as written, is none of this machine's."""

_STRETCHES = ("--rope", "--yarn", "--override-kv", "--grp-attn", "-gan")
"""Flags by which a model is made to read further than it was trained for."""


def doubts(
    spec: InstanceSpec, model: Model | None, path: Path, is_foreign: IsForeign
) -> Iterator[Issue]:
    """Warnings about one instance, whose place in the profile is `path`."""
    yield from _address(spec, path, is_foreign)
    if model is not None:
        yield from _context(spec, model, path)


def gateway_doubts(gateway: GatewayConfig, is_foreign: IsForeign) -> Iterator[Issue]:
    """Warnings about where the gateway listens; all that it leads to is there for the asking."""
    host, path = gateway.host, ("gateway", "host")
    if host is None or is_loopback(host):
        return
    if is_foreign(host.strip("[] ")):
        message = f"{host} is no address of this machine: the gateway could not listen there"
        hint = "127.0.0.1 is reached from here alone, 0.0.0.0 from everywhere"
        yield Issue(path, message, hint, warning=True, key=False)
    elif not (gateway.token or gateway.tokens):
        message = f"whoever reaches {host} may use every model: the gateway asks for no token"
        hint = "add `token: ${env:GATEWAY_TOKEN}`, or leave `host` out"
        yield Issue(path, message, hint, warning=True, key=False)


def _address(spec: InstanceSpec, path: Path, is_foreign: IsForeign) -> Iterator[Issue]:
    if spec.attach == "only":
        # It is somebody else's server: it may be anywhere.
        return
    for host in spec.endpoint.host.split(","):
        if is_foreign(host.strip("[] ")):
            message = f"{host} is no address of this machine: {spec.name} could not listen there"
            hint = "127.0.0.1 is reached from here alone, 0.0.0.0 from everywhere"
            yield Issue((*path, "host"), message, hint, warning=True, key=False)


def _context(spec: InstanceSpec, model: Model, path: Path) -> Iterator[Issue]:
    """More than a sequence can have is cut by the server, and takes its memory all the same."""
    argv = spec.command.argv
    if not model.metadata.context_length or any(word.startswith(_STRETCHES) for word in argv):
        return
    load = loading_of(argv, spec.command.env).load
    each = (load.context or 0) // (1 if load.unified else load.parallel)
    trained = model.metadata.context_length
    if each > trained:
        message = f"the context of {each:,} tokens is more than the {trained:,} that the model "
        message += "was trained for"
        hint = "what is above that is cut, or makes no sense; rope scaling stretches it"
        yield Issue((*path, "flags", "ctx-size"), message, hint, warning=True, key=False)
