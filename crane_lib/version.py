"""Version of the project."""

VERSION = "0.1.0"  # as in pyproject.toml
