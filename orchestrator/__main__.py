"""`orchestrate`, and `python -m orchestrator`, which is the same."""

import sys


def main() -> None:
    """Load the command line, and run it."""
    try:
        from orchestrator.cli.main import run

        run()
    except KeyboardInterrupt:
        # While the command line itself was still being loaded.
        sys.exit(130)


if __name__ == "__main__":
    main()
