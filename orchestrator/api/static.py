"""Serves the dashboard: a few files of this package, and nothing that a request could name.

The page asks for nothing outside, runs no inline script, and may not be framed; the browser is
told so, and holds it to that even if a name or a log line should ever slip through as markup.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import html
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import NamedTuple

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import BaseRoute, Route

FOLDER = Path(__file__).parent / "page"

_KINDS = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}

KINDS = frozenset(kind.partition(";")[0] for kind in _KINDS.values())
"""The media types of the page's files."""

_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'self'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'"
)

_SECURITY = {
    "Cache-Control": "no-cache",
    "Content-Security-Policy": _POLICY,
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


class Asset(NamedTuple):
    """One file of the page, as it is and packed. `tag` changes when the bytes do."""

    body: bytes
    packed: bytes
    kind: str
    tag: str


def routes() -> list[BaseRoute]:
    """`/` and the files that it needs."""
    return [Route("/", _page), Route("/page/{version}/{name}", _part)]


@cache
def assets() -> dict[str, Asset]:
    """Every file of the page, by name: read once, when somebody first looks."""
    files = {path.name: path for path in sorted(FOLDER.iterdir()) if path.suffix in _KINDS}
    read = {name: path.read_bytes() for name, path in files.items()}
    read["index.html"] = read["index.html"].replace(b"/page/", f"/page/{_version(read)}/".encode())
    return {name: _asset(body, _KINDS[files[name].suffix]) for name, body in read.items()}


def _version(read: Mapping[str, bytes]) -> str:
    """Names all files together as they are: under that name they never change."""
    return hashlib.sha256(b"\0".join(read.values())).hexdigest()[:12]


def _asset(body: bytes, kind: str) -> Asset:
    return Asset(body, gzip.compress(body, mtime=0), kind, hashlib.sha256(body).hexdigest()[:24])


def login_page(refused: str = "") -> Response:
    """The form that asks for the token, all in one; `refused` says why the last one was not taken.

    A form without a script: it posts `token` to `/login`. Its status is 401 with `refused`.
    """
    text = assets()["login.html"].body.decode()
    styles = re.findall(r"<style>(.*?)</style>", text, re.DOTALL)
    hashes = " ".join(
        f"'sha256-{base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()}'"
        for style in styles
    )
    policy = (
        f"default-src 'none'; style-src {hashes}; base-uri 'none'; form-action 'self'; "
        "frame-ancestors 'none'"
    )
    said = f'<p id="refused" role="alert">{html.escape(refused)}</p>' if refused else ""
    return Response(
        text.replace("<!--refused-->", said),
        status_code=401 if refused else 200,
        media_type="text/html",
        headers={**_SECURITY, "Cache-Control": "no-store", "Content-Security-Policy": policy},
    )


async def _page(request: Request) -> Response:
    return _served(request, assets()["index.html"])


async def _part(request: Request) -> Response:
    asset = assets().get(request.path_params["name"])
    if asset is None or asset.kind.startswith("text/html"):
        return PlainTextResponse("no such file\n", status_code=404, headers=_SECURITY)
    # Of another version, as an old page asks for it, this is only the best that there is.
    current = f"/{request.path_params['version']}/".encode() in assets()["index.html"].body
    return _served(request, asset, "max-age=31536000, immutable" if current else "no-cache")


def _served(request: Request, asset: Asset, keep: str = "no-cache") -> Response:
    packs = "gzip" in request.headers.get("accept-encoding", "")
    tag = f'"{asset.tag}{"-gz" if packs else ""}"'
    headers = {**_SECURITY, "Cache-Control": keep, "ETag": tag, "Vary": "Accept-Encoding"}
    known = request.headers.get("if-none-match", "")
    if tag in (one.strip().removeprefix("W/") for one in known.split(",")):
        return Response(status_code=304, headers=headers)
    if packs:
        headers["Content-Encoding"] = "gzip"
    return Response(asset.packed if packs else asset.body, media_type=asset.kind, headers=headers)
