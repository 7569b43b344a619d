"""`orchestrate`, and `python -m orchestrator`, which is the same."""

import gc
import os
import sys


def main() -> None:
    """Load the command line, and run it."""
    if os.getpid() == 1:
        _end_when_told()
    # What a command loads and parses stays: searching it for cycles is a tenth of its time.
    gc.set_threshold(50_000)
    try:
        from orchestrator.cli import head_start

        head_start.begin(sys.argv[1:])
        from orchestrator.cli.main import run

        run()
    except KeyboardInterrupt:
        # While the command line itself was still being loaded.
        sys.exit(130)


def _end_when_told() -> None:
    """The kernel drops signals that the first process of a container does not handle: until the
    loop does, `docker stop` would wait for its whole grace. The image has it blocked until here."""
    import signal

    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})


if __name__ == "__main__":
    main()
