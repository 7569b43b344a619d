"""What becomes of each key of a llama-swap configuration; empty where it is carried over."""

from __future__ import annotations

from collections.abc import Mapping

UNKNOWN = "nothing is known of this"
NEARBY = (
    "llama-swap listens on all addresses unless it is told otherwise; this is reached from this "
    "machine alone (`--listen 0.0.0.0:8080` opens it, and should have a token)"
)
NOTED = frozenset({"useModelName"})
"""Keys of which nothing is lost, though nothing is carried over."""

_LOG = (
    "of llama-swap's own log; `orchestrate logs gateway` has a line for each request, and "
    "`orchestrate logs NAME` what a server says"
)
_SEEN = "of llama-swap's own pages; `orchestrate status`, the dashboard and the metrics show that"
_LISTED = "the gateway lists names, and says nothing more of a model"
_LOADING = "a stream is kept open while its model loads, with nothing in it that anybody reads"
TIMES = (
    "the gateway waits for as long as a server works; a route with `slow:` falls back from one "
    "that says nothing for so long"
)

FILE_KEYS: Mapping[str, str] = {
    "apiKeys": "",
    "captureBuffer": "what requests hold is not kept; " + _LOG[_LOG.index("`") :],
    "globalTTL": "",
    "groups": "",
    "healthCheckTimeout": "",
    "hooks": "",
    "includeAliasesInList": "",
    "logLevel": _LOG,
    "logRequests": _LOG,
    "logTimeFormat": _LOG,
    "logToStdout": _LOG,
    "macros": "",
    "matrix": "",
    "metricsMaxInMemory": _SEEN,
    "models": "",
    "peers": "",
    "performance": _SEEN,
    "profiles": "none of them holds when llama-swap starts; who serves a name is said by "
    "`gateway: {routes: ...}`, and switched by saving the profile",
    "routing": "",
    "selectors": "",
    "sendLoadingState": _LOADING,
    "startPort": "",
    "store": _SEEN,
    "ui": _SEEN,
    "unloadTimeout": "",
    "upstream": "below `/instances/NAME/` every request is for that server, whatever its path",
}

MODEL_KEYS: Mapping[str, str] = {
    "aliases": "",
    "capabilities": _LISTED,
    "checkEndpoint": "a llama-server is ready when /health says so",
    "cmd": "",
    "cmdStop": "it is stopped by SIGTERM, and after `stop: {grace}` by SIGKILL",
    "compat": "a llama-server has no WebSockets",
    "concurrencyLimit": "a server works on as many requests at once as `parallel` says; others "
    "wait in the gateway, and are answered by 429 where that takes too long (`gateway: {queue}`)",
    "description": "",
    "env": "",
    "filters": "requests reach the server as they were sent; what a flag sets is only a default",
    "macros": "",
    "metadata": _LISTED,
    "name": "",
    "proxy": "",
    "sendLoadingState": _LOADING,
    "timeouts": TIMES,
    "ttl": "",
    "unlisted": "the gateway lists all names",
    "unloadTimeout": "",
    "useModelName": "a llama-server answers to any model name",
}
