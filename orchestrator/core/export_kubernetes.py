"""Manifests that run the daemon with some profiles in Kubernetes. Pure.

A ConfigMap has the profiles: edited there, they are taken up by the daemon as any edit, with no
rollout. Values of variables are in a Secret that somebody else makes; models are on a volume.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import yaml

from orchestrator.core.exported import Exported

API_PORT = 8079
"""Where probes, and whoever has the token, reach the daemon."""

USER = 10001
"""The account of the image."""


def key_of(file: str) -> str:
    """What a file is called in a ConfigMap, which knows no folders."""
    return re.sub(r"[^A-Za-z0-9._-]", "-", file.rpartition("/")[2]).lstrip(".") or "profile.yaml"


def render_kubernetes(
    exported: Exported,
    texts: Mapping[str, str],
    *,
    name: str,
    image: str,
    claim: str,
) -> str:
    """The text of the manifests; the same for the same profiles.

    `texts` are the files by their key (`key_of`), `claim` is the volume with the models.
    """
    manifests = [
        _config(texts, name),
        _deployment(exported, name=name, image=image, claim=claim),
        *_service(exported, name),
    ]
    head = "# Made by `orchestrate export kubernetes`.\n"
    return head + "---\n".join(_dumped(one) for one in manifests)


def _labels(name: str) -> dict[str, str]:
    return {"app.kubernetes.io/name": "orchestrate", "app.kubernetes.io/instance": name}


def _meta(name: str) -> dict[str, Any]:
    return {"name": name, "labels": _labels(name)}


def _config(texts: Mapping[str, str], name: str) -> dict[str, Any]:
    data = dict(sorted(texts.items()))
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": _meta(name), "data": data}


def _deployment(exported: Exported, *, name: str, image: str, claim: str) -> dict[str, Any]:
    pod: dict[str, Any] = {
        "terminationGracePeriodSeconds": round(exported.grace),
        "automountServiceAccountToken": False,
        # A Service called `ollama` or `orchestrate` would set variables that we would heed.
        "enableServiceLinks": False,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": USER,
            "runAsGroup": USER,
            "fsGroup": USER,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [_container(exported, name, image)],
        "volumes": [*_volumes(exported, name, claim)],
    }
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": _meta(name),
        "spec": {
            "replicas": 1,
            # Two would load every model twice, and want each GPU twice.
            "strategy": {"type": "Recreate"},
            "selector": {"matchLabels": _labels(name)},
            "template": {"metadata": {"labels": _labels(name)}, "spec": pod},
        },
    }


def _container(exported: Exported, name: str, image: str) -> dict[str, Any]:
    api = {"name": "api", "containerPort": API_PORT}
    container: dict[str, Any] = {
        "name": "orchestrate",
        "image": image,
        "env": [*_env(exported, name)],
        "ports": [api, *({"name": _port(n, p), "containerPort": p} for n, p in exported.ports)],
        # The loop turns; and, for traffic, all that is declared is ready.
        "startupProbe": {**_probe("/healthz"), "periodSeconds": 2, "failureThreshold": 150},
        "livenessProbe": {**_probe("/healthz"), "periodSeconds": 10, "failureThreshold": 3},
        "readinessProbe": {**_probe("/readyz"), "periodSeconds": 5},
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "volumeMounts": [*_mounts(exported)],
    }
    if resources := _resources(exported):
        container["resources"] = resources
    return container


def _probe(path: str) -> dict[str, Any]:
    # Both go without the token.
    return {"httpGet": {"path": path, "port": "api"}, "timeoutSeconds": 5}


def _env(exported: Exported, name: str) -> Iterator[dict[str, Any]]:
    yield {"name": "ORCHESTRATE_LISTEN", "value": f"0.0.0.0:{API_PORT}"}
    for variable, optional in exported.variables:
        key = {"name": f"{name}-env", "key": variable, "optional": optional}
        yield {"name": variable, "valueFrom": {"secretKeyRef": key}}


def _resources(exported: Exported) -> dict[str, Any]:
    requests: dict[str, Any] = {}
    limits: dict[str, Any] = {}
    if exported.limit is not None:
        limits["memory"] = str(exported.limit)
    if exported.reserved is not None:
        bounded = exported.reserved if exported.limit is None else exported.limit
        requests["memory"] = str(min(exported.reserved, bounded))
    if exported.wants_gpus:
        # Whole ones, and counted: which, is not for a pod to say. `auto` is at least one.
        limits["nvidia.com/gpu"] = max(exported.gpus, default=0) + 1 if exported.gpus else 1
    parts = {"requests": requests, "limits": limits}
    return {key: value for key, value in parts.items() if value}


def _mounts(exported: Exported) -> Iterator[dict[str, Any]]:
    yield {"name": "profiles", "mountPath": "/profiles", "readOnly": True}
    if exported.needs_models:
        yield {"name": "models", "mountPath": "/models", "readOnly": True}
    yield {"name": "state", "mountPath": "/state"}
    yield {"name": "tmp", "mountPath": "/tmp"}


def _volumes(exported: Exported, name: str, claim: str) -> Iterator[dict[str, Any]]:
    yield {"name": "profiles", "configMap": {"name": name}}
    if exported.needs_models:
        source = {"claimName": claim, "readOnly": True}
        yield {"name": "models", "persistentVolumeClaim": source}
    yield {"name": "state", "emptyDir": {}}
    yield {"name": "tmp", "emptyDir": {}}


def _service(exported: Exported, name: str) -> Iterable[dict[str, Any]]:
    """How others reach the instances; the API is for those who forward a port to it."""
    if not exported.ports:
        return
    ports = [
        {"name": _port(one, port), "port": port, "targetPort": _port(one, port)}
        for one, port in exported.ports
    ]
    yield {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": _meta(name),
        "spec": {"selector": _labels(name), "ports": ports},
    }


def _port(instance: str, port: int) -> str:
    """Names a port, in the 15 characters that there are for it; no two are the same."""
    label = re.sub(r"-+", "-", re.sub(r"[^a-z0-9]", "-", instance.lower()))[:9].strip("-")
    return f"{label or 'i'}-{port}" if re.search(r"[a-z]", label) else f"i-{port}"


class _Text(str):
    """A whole file: shown as its lines."""


class _Dumper(yaml.SafeDumper):
    pass


def _as_lines(dumper: yaml.SafeDumper, text: _Text) -> Any:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|")  # pyright: ignore[reportUnknownMemberType]


_Dumper.add_representer(_Text, _as_lines)


def _dumped(manifest: dict[str, Any]) -> str:
    if manifest["kind"] == "ConfigMap":
        data = {key: _Text(text) for key, text in manifest["data"].items()}
        manifest = {**manifest, "data": data}
    return yaml.dump(manifest, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=1000)
