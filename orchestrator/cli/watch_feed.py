"""What goes on beside the screen: streams of the daemon, and verbs that take their time.

Each is a thread that posts calls; they are made one after the other by whoever owns the screen, so
nothing else there needs to know of threads.
"""

from __future__ import annotations

import contextlib
import os
import queue
import socket
import threading
from collections.abc import Callable
from io import BufferedReader
from typing import TypeVar

from orchestrator.errors import NoDaemonError, OrchestrateError

TRIES_AGAIN = 0.5
"""Seconds between two looks for a daemon."""

Result = TypeVar("Result")
Call = Callable[[], None]


class Inbox:
    """Calls to be made by the thread that draws. Its descriptor is readable when there are any."""

    def __init__(self) -> None:
        self._calls: queue.SimpleQueue[Call] = queue.SimpleQueue()
        self._wakes, self._wake = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)

    def fileno(self) -> int:
        return self._wakes

    def post(self, call: Call) -> None:
        """From any thread."""
        self._calls.put(call)
        # When it is full, whoever reads is awake.
        with contextlib.suppress(BlockingIOError):
            os.write(self._wake, b"!")

    def make_calls(self) -> None:
        """All that were posted; what one raises is raised here."""
        try:
            os.read(self._wakes, 65536)
        except BlockingIOError:
            return
        for _ in range(self._calls.qsize()):
            self._calls.get()()


def beside(
    inbox: Inbox,
    work: Callable[[], Result],
    done: Callable[[Result], None],
    failed: Callable[[OrchestrateError], None],
) -> None:
    """Do it in a thread of its own, and post what came of it."""

    def run() -> None:
        try:
            result = work()
        except OrchestrateError as error:
            # The name ends with the block.
            refused = error
            inbox.post(lambda: failed(refused))
        except Exception as error:  # noqa: BLE001 - the end of a thread: raised where it is seen
            bug = error
            inbox.post(lambda: _raise(bug))
        else:
            inbox.post(lambda: done(result))

    threading.Thread(target=run, daemon=True).start()


class Feed:
    """One stream, taken up again whenever it ends, until it is closed.

    `begun` is called before its first bytes, each time; `lost` each time that it ends or cannot
    be had, and `alone`, in the feed's own thread, after that.
    """

    def __init__(
        self,
        open_stream: Callable[[], BufferedReader],
        inbox: Inbox,
        *,
        begun: Call,
        came: Callable[[bytes], None],
        lost: Callable[[OrchestrateError], None],
        alone: Call | None = None,
    ) -> None:
        self._open = open_stream
        self._inbox = inbox
        self._begun, self._came, self._lost, self._alone = begun, came, lost, alone
        self._closed = threading.Event()
        self._reads = threading.Lock()
        self._reader: BufferedReader | None = None
        threading.Thread(target=self._run, daemon=True).start()

    def close(self) -> None:
        """Nothing is called any more."""
        self._closed.set()
        with self._reads:
            if self._reader is not None and not self._reader.closed:
                # Who waits for bytes is woken by the end of the connection, not by that of a file.
                with socket.socket(fileno=os.dup(self._reader.fileno())) as connection:
                    connection.shutdown(socket.SHUT_RDWR)

    def _run(self) -> None:
        try:
            while not self._closed.is_set():
                error = self._follow()
                self._post(lambda error=error: self._lost(error))
                if self._alone is not None and not self._closed.is_set():
                    self._alone()
                self._closed.wait(TRIES_AGAIN)
        except Exception as error:  # noqa: BLE001 - the end of a thread: raised where it is seen
            bug = error
            self._inbox.post(lambda: _raise(bug))

    def _follow(self) -> OrchestrateError:
        """Until it ends; why it did."""
        try:
            reader = self._open()
        except OrchestrateError as error:
            return error
        with self._reads:
            self._reader = reader
        with reader:
            self._post(self._begun)
            try:
                while not self._closed.is_set() and (chunk := reader.read1(1 << 16)):
                    self._post(lambda chunk=chunk: self._came(chunk))
            except OSError as error:
                return NoDaemonError(f"the daemon does not answer any more: {error}")
        return NoDaemonError("the daemon went away")

    def _post(self, call: Call) -> None:
        def unless_closed() -> None:
            if not self._closed.is_set():
                call()

        self._inbox.post(unless_closed)


def _raise(error: Exception) -> None:
    raise error


def lines_of(come: Callable[[bytes], None]) -> Callable[[bytes], None]:
    """Bytes as they come, handed on as whole lines, without their ends."""
    rest = b""

    def take(chunk: bytes) -> None:
        nonlocal rest
        *whole, rest = (rest + chunk).split(b"\n")
        for line in whole:
            come(line)

    return take
