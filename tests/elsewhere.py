"""A server elsewhere that speaks OpenAI's protocol: what a cloud is to the gateway."""

from __future__ import annotations

import json
import shutil
import ssl
import subprocess
import threading
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

KEY = "sk-of-the-cloud"


@dataclass
class Elsewhere:
    """What it is asked, and what it answers: 401 to a key that it does not know, else `status`."""

    port: int = 0
    status: int = 200
    headers: list[dict[str, str]] = field(default_factory=list[dict[str, str]])
    paths: list[str] = field(default_factory=list[str])
    bodies: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])

    def asked(self, path: str, headers: dict[str, str], body: dict[str, Any]) -> tuple[int, Any]:
        self.paths.append(path)
        self.headers.append(headers)
        self.bodies.append(body)
        if headers.get("authorization") != f"Bearer {KEY}":
            return 401, {"error": {"message": "no such key"}}
        said = {"role": "assistant", "content": "from elsewhere"}
        choice = {"index": 0, "message": said, "finish_reason": "stop"}
        return self.status, {"model": body.get("model"), "choices": [choice]}


@contextmanager
def running(port: int, certificate: tuple[Path, Path] | None = None) -> Generator[Elsewhere]:
    """Listen on loopback; with a certificate and its key, in TLS."""
    elsewhere = Elsewhere(port)

    class Asked(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            raw = self.rfile.read(int(self.headers.get("content-length", 0)))
            headers = {name.lower(): value for name, value in self.headers.items()}
            status, body = elsewhere.asked(self.path, headers, json.loads(raw))
            answer = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Set-Cookie", "cloud=1")
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, format: str, *args: Any) -> None:
            """Nobody reads it."""

    server = ThreadingHTTPServer(("127.0.0.1", port), Asked)
    if certificate is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*certificate)
        server.socket = context.wrap_socket(
            server.socket, server_side=True, do_handshake_on_connect=False
        )
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield elsewhere
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def certificate(folder: Path) -> tuple[Path, Path]:
    """A certificate for localhost, which is its own authority, and its key."""
    openssl = shutil.which("openssl")
    assert openssl, "openssl is needed to make a certificate"
    cert, key = folder / "cloud.pem", folder / "cloud.key"
    words = ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    words += ["-days", "2", "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    command = [openssl, *words, "-keyout", str(key), "-out", str(cert)]
    subprocess.run(command, check=True, capture_output=True)
    return cert, key
