"""What becomes of each key of a llama-swap configuration; empty where it is carried over."""

from __future__ import annotations

from collections.abc import Mapping

_PROXY = "of llama-swap's own proxy; here clients talk to the servers themselves"
_ROUTE = "nothing routes requests by the name of a model here; that would need a gateway"
_TOGETHER = "all instances run at once: nothing is unloaded for another"

FILE_KEYS: Mapping[str, str] = {
    "apiKeys": "llama-swap asks for them, its servers do not: give each server one, as in "
    '`flags: {api-key: "${env:LLAMA_API_KEY}"}`',
    "captureBuffer": _PROXY,
    "globalTTL": "",
    "groups": _TOGETHER,
    "healthCheckTimeout": "",
    "hooks": "",
    "includeAliasesInList": _PROXY,
    "logLevel": _PROXY,
    "logRequests": _PROXY,
    "logTimeFormat": _PROXY,
    "logToStdout": _PROXY,
    "macros": "",
    "matrix": _TOGETHER,
    "metricsMaxInMemory": _PROXY,
    "models": "",
    "peers": "servers elsewhere: " + _ROUTE,
    "performance": _PROXY,
    "profiles": _ROUTE,
    "routing": _TOGETHER + ", and nothing orders requests",
    "selectors": _ROUTE,
    "sendLoadingState": _PROXY,
    "startPort": "",
    "store": _PROXY,
    "ui": _PROXY,
    "unloadTimeout": "",
    "upstream": _PROXY,
}

MODEL_KEYS: Mapping[str, str] = {
    "aliases": "",
    "capabilities": _PROXY,
    "checkEndpoint": "a llama-server is ready when /health says so",
    "cmd": "",
    "cmdStop": "it is stopped by SIGTERM, and after `stop: {grace}` by SIGKILL",
    "compat": _PROXY,
    "concurrencyLimit": "a server works on as many requests at once as `parallel` says, and "
    "queues the others; refusing them would need a gateway",
    "description": "",
    "env": "",
    "filters": "requests reach the server as they were sent; what a flag sets is only a default",
    "macros": "",
    "metadata": _PROXY,
    "name": "",
    "proxy": "",
    "sendLoadingState": _PROXY,
    "timeouts": _PROXY,
    "ttl": "it stays in memory: to stop what is idle, and start it for the next request, would "
    "need a gateway",
    "unlisted": "there is no list of all models that it could be left out of",
    "unloadTimeout": "",
    "useModelName": "a llama-server answers to any model name",
}
