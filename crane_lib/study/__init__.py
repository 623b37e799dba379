"""The study as a whole: which stage needs which, for one profile and one folder of results.

    study = Study.open("mini")
    rows = study.rows("base")          # makes whatever is missing, uses again whatever is there

Every method returns finished files; calling one makes what it depends on first. Each step of the study is a class that
adds its stages to those of the steps before: `base`, `models`, `relevance`, `masking`, and beside the main masks
`controls`, `open_ended` and `ground_truth`.
"""

from __future__ import annotations

from crane_lib.pipeline.store import Stage
from crane_lib.study.controls import Controls
from crane_lib.study.ground_truth import GroundTruth
from crane_lib.study.open_ended import OpenEnded

__all__ = ["Study"]


class Study(Controls, OpenEnded, GroundTruth):
    """One profile's stages in one folder."""

    def evaluate_masks(self) -> list[Stage]:
        """Every stage that evaluates a model under masks, as far as the profile has what it takes."""
        stages = [self.perplexity(name) for name in self.model_names] + [self.control_perplexity()]
        if self.has_questions:
            stages += [self.nlu(name) for name in self.model_names] + [self.control_nlu()]
        if self.has_chat:
            stages += self.back_transfer()
        return stages if self.no_open_ended else [*stages, self.open_answers()]
