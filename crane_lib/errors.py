"""The exception for errors that a user can correct."""

import re

_BREAKS = re.compile("\\s*[\n\r\v\f\x1c-\x1e\x85\u2028\u2029]\\s*")


def one_line(text: str) -> str:
    """Return a text in one line, not too long, with escapes for what a terminal would obey or could not encode."""
    flat = _BREAKS.sub(" ", text[:1500])
    return "".join(one if one.isprintable() else ascii(one)[1:-1] for one in flat)[:1500]


class CraneError(Exception):
    """An error that the user can correct; the message is one line with what was seen and what to do."""

    def __init__(self, message: str) -> None:
        super().__init__(one_line(message))

    def _render_traceback_(self) -> list[str]:
        """Lines that a notebook shows instead of a traceback: the message."""
        return [f"error: {self}"]
