"""The one exception a user of CRANE should expect to see."""


class CraneError(Exception):
    """Something the user can put right; the message is one line that says what was seen and what to do."""
