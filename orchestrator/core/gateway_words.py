"""What a gateway does, key by key, in the words of a profile and without its secrets. Pure."""

from __future__ import annotations

from orchestrator.core.gateway_spec import TRIGGERS, CloudSpec, GatewaySpec, RouteSpec, TokenSpec
from orchestrator.core.secret import MASK
from orchestrator.core.units import format_duration


def changes(have: GatewaySpec | None, want: GatewaySpec | None) -> dict[str, tuple[str, str]]:
    """What it says before and after, by key; "" where it says nothing."""
    before, after = _said(have), _said(want)
    found: dict[str, tuple[str, str]] = {}
    for key in dict.fromkeys([*after, *before]):
        (old, was), (new, now) = before.get(key, ("", None)), after.get(key, ("", None))
        if was != now:
            # What differs may be what is not shown.
            found[key] = old, new if new != old else f"{new} (changed)"
    return found


def _said(spec: GatewaySpec | None) -> dict[str, tuple[str, object]]:
    """Words for each key, and the value that they stand for."""
    if spec is None:
        return {}
    size = str(spec.waiting) if spec.waiting is not None else "by slots"
    said: dict[str, tuple[str, object]] = {
        "queue.size": (size, spec.waiting),
        "queue.deadline": (format_duration(spec.patience), spec.patience),
        "log.requests": (spec.log, spec.log),
        "log.content": ("true" if spec.content else "false", spec.content),
    }
    said |= {
        name: (", ".join(listed), listed)
        for name, listed in (("hosts", spec.hosts), ("origins", spec.origins))
        if listed
    }
    said |= {f"routes.{one.name}": (_route(one), one) for one in spec.routes}
    said |= {f"cloud.{one.name}": (_cloud(one), one) for one in spec.clouds}
    said |= {f"tokens.{one.name}": (_token(one), one) for one in spec.tokens}
    return said


def _route(route: RouteSpec) -> str:
    aims = [
        aim.name if aim.weight is None else f"{aim.name} (weight {aim.weight})" for aim in route.to
    ]
    words = [", ".join(aims)]
    if route.fallback:
        words.append(f"fallback {', '.join(route.fallback)}")
    if route.on != TRIGGERS:
        words.append(f"on {', '.join(route.on)}")
    if route.slow is not None:
        words.append(f"slow {format_duration(route.slow)}")
    if route.warn is not None:
        words.append(f"warn {route.warn:g}%")
    return "; ".join(words)


def _cloud(cloud: CloudSpec) -> str:
    model = [f"model {cloud.model}"] if cloud.model else []
    key = [f"key {MASK}"] if cloud.key else []
    return ", ".join([cloud.url, *model, *key])


def _token(token: TokenSpec) -> str:
    return f"{MASK}, priority {token.priority}" if token.priority else MASK
