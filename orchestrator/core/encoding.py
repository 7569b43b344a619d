"""Text that comes from the system need not be text: bytes that are no UTF-8 become half characters.

No store, no JSON and no message can hold such a one, so it is refused where it comes in.
"""

from __future__ import annotations


def is_utf8(text: str) -> bool:
    """False for what the system gave as bytes that are no UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
