"""The one exception a user of CRANE should expect to see."""


class CraneError(Exception):
    """Something the user can put right; the message is one line that says what was seen and what to do."""

    def _render_traceback_(self) -> list[str]:
        """What a notebook shows of it instead of a traceback: the one line."""
        return [f"error: {self}"]
