"""The exception for errors that a user can correct."""


class CraneError(Exception):
    """An error that the user can correct; the message is one line with what was seen and what to do."""

    def _render_traceback_(self) -> list[str]:
        """Lines that a notebook shows instead of a traceback: the message."""
        return [f"error: {self}"]
