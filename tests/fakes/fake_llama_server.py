"""A llama-server that misbehaves as the words in its variable FAKE say.

    deaf            SIGTERM does nothing
    exit=N          says why, and exits with code N at once; `unless=PATH`: not once that is there
    hang            never listens, and does nothing
    load=SECONDS    is busy for so long before it listens
    wait=PATH       listens only once that file is there
    loads=PATH      answers /health with 503 until that file is there, as one does that loads
    mute            accepts connections, and answers none; `mute=PATH`: once that file is there
    toil=PATH       answers nothing once that file is there, and computes as hard as it can
    sick=PATH       answers /health with 500 once that file is there
    hold=PATH       answers anything else only once that file is there
    refuse=STATUS   is ready, and answers all else with this status
    cut             is ready, and closes the connection of whoever asks for more
    late=SECONDS    is ready, and takes so long for the head of any other answer
    silent=SECONDS  is ready, and takes so long from the head of any other answer to its body
    fork            leaves a child in its group, which keeps the port
    session         leaves a child in a session of its own

Without a word it is well: it answers whatever it is asked with 200.
"""

import os
import signal
import socket
import sys
import threading
import time
from pathlib import Path

HELP = Path(__file__).parent.parent / "data" / "llama-server-b11434-help.txt"


def after(flag: str, default: str) -> str:
    return sys.argv[sys.argv.index(flag) + 1] if flag in sys.argv else default


def load(seconds: float) -> None:
    """Uses CPU and memory, as a model does that is read."""
    end = time.monotonic() + seconds
    held: list[bytearray] = []
    while time.monotonic() < end:
        held.append(bytearray(100_000))
        sum(range(20_000))
        time.sleep(0.01)


def child(*, new_session: bool) -> None:
    """A process that goes on until it is killed."""
    if os.fork() == 0:
        if new_session:
            os.setsid()
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        while True:
            signal.pause()


HEAD = b"\r\nContent-Length: 2\r\nConnection: close\r\n\r\n"


def serve(listener: socket.socket, words: dict[str, str]) -> None:
    kept: list[socket.socket] = []
    while True:
        connection, _ = listener.accept()
        while "toil" in words and os.path.exists(words["toil"]):
            sum(range(20_000))
        if "mute" in words and (not words["mute"] or os.path.exists(words["mute"])):
            kept.append(connection)
            continue
        asked = connection.recv(65536).partition(b"\r\n")[0]
        if "hold" in words and b" /health" not in asked:
            threading.Thread(target=hold, args=(connection, words["hold"]), daemon=True).start()
            continue
        with connection:
            if b" /health" not in asked:
                misbehave(connection, words)
                continue
            connection.sendall(b"HTTP/1.1 " + health(words) + HEAD + b"{}")


def health(words: dict[str, str]) -> bytes:
    if "loads" in words and not os.path.exists(words["loads"]):
        return b"503 Service Unavailable"
    if "sick" in words and os.path.exists(words["sick"]):
        return b"500 Internal Server Error"
    return b"200 OK"


def hold(connection: socket.socket, path: str) -> None:
    """A request that takes its time, while others are answered."""
    while not os.path.exists(path):
        time.sleep(0.01)
    with connection:
        connection.sendall(b"HTTP/1.1 200 OK" + HEAD + b"{}")


def misbehave(connection: socket.socket, words: dict[str, str]) -> None:
    """Answer anything but the question for health. Whoever asked may have left meanwhile."""
    if "cut" in words:
        return
    time.sleep(float(words.get("late", 0)))
    try:
        connection.sendall(b"HTTP/1.1 " + words.get("refuse", "200").encode() + b" Said" + HEAD)
        time.sleep(float(words.get("silent", 0)))
        connection.sendall(b"{}")
    except OSError:
        pass


def main() -> None:
    if "--help" in sys.argv:
        sys.stdout.write(HELP.read_text())
        return
    words: dict[str, str] = {}
    for word in os.environ.get("FAKE", "").split(","):
        name, _, value = word.partition("=")
        words[name] = value
    print("fake engine begins", flush=True)
    # Python's own way with SIGTERM is silent and at once, but its code would be -15.
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    if "deaf" in words:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if "exit" in words and not os.path.exists(words.get("unless", "")):
        print("error: the fake engine gives up\nsome last words", file=sys.stderr, flush=True)
        sys.exit(int(words["exit"]))
    while "hang" in words:
        signal.pause()
    while "wait" in words and not os.path.exists(words["wait"]):
        time.sleep(0.01)
    load(float(words.get("load", 0)))
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((after("--host", "127.0.0.1"), int(after("--port", "8080"))))
    except OSError as error:
        print(f"error: couldn't bind to server socket: {error.strerror}", file=sys.stderr)
        sys.exit(1)
    listener.listen()
    if "fork" in words or "session" in words:
        child(new_session="session" in words)
    serve(listener, words)


main()
