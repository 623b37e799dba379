"""The study as a whole: which stage needs which, for one profile and one folder of results.

    study = Study.open("mini")
    rows = study.rows("base")          # makes whatever is missing, uses again whatever is there

Every method returns finished files; calling one makes what it depends on first. Each step of the study is a class that
adds its stages to those of the steps before: `base`, `models`, `relevance`, `masking`, and beside the main masks
`controls`, `open_ended` and `ground_truth`.
"""

from __future__ import annotations

from crane_lib.study.controls import Controls
from crane_lib.study.ground_truth import GroundTruth
from crane_lib.study.open_ended import OpenEnded

__all__ = ["Study"]


class Study(Controls, OpenEnded, GroundTruth):
    """One profile's stages in one folder."""
