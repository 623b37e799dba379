"""The paper's claims and published numbers, and the rules by which this study's results are compared with them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from crane_lib.errors import CraneError


def read_rules(path: Path) -> Any:
    """Content of a YAML file of ``expected/``."""
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise CraneError(f"{path}: no such file; run from a clone of the repository") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise CraneError(f"{path}: is not YAML ({' '.join(str(error).split())})") from error
