"""A step of a study beside the main masks: open questions, the chat model's answers, and their scores."""

from __future__ import annotations

from functools import cached_property

import pandas as pd

from crane_lib.errors import CraneError
from crane_lib.files import read_frame
from crane_lib.pipeline.store import Stage
from crane_lib.study.relevance import RelevanceAndSelection
from crane_lib.study.sources import file_key


class OpenEnded(RelevanceAndSelection):
    """Answers of the chat model under every mask, and what the judges say about them."""

    @property
    def no_open_ended(self) -> str:
        """Why there is no open-ended generation, empty where there is."""
        return self.profile.no_open_ended

    @property
    def open_sets(self) -> dict[str, list[tuple[str, str]]]:
        """Methods and budgets that the chat model answers under: the base model's sets, and its own as in the paper."""
        from crane_lib.stages.selection import PUBLISHED, TOP_SHARE

        random = [(f"random_like_{method}", budget) for method, budget in self.judged_sets]
        return {
            "base": [*self.judged_sets, ("lape", "published"), ("lape", self.budget), *random],
            "chat": [*self.judged_sets, ("kurtosis", f"{TOP_SHARE:g}"), ("lape", PUBLISHED)],
        }

    @property
    def judges(self) -> list[str]:
        """Judges of open answers, the main one first."""
        judge = self.profile.open_ended.judge
        return ["endpoint", "offline"] if judge == "both" else [judge]

    @cached_property
    def open_questions(self) -> Stage:
        """Open questions, and the answers that are known."""
        from crane_lib.stages.open_ended import make_embedded_questions, make_file_questions

        if self.no_open_ended:
            raise CraneError(f"profile {self.profile.name}: {self.no_open_ended}")
        options = self.profile.open_ended
        if options.questions is None:
            return self.store.run(
                "open_questions",
                make_embedded_questions,
                inputs={"corpus": self.corpus},
                parameters={"count": options.embedded_questions, "random_seed": self.profile.random_seed},
            )
        return self.store.run(
            "open_questions",
            make_file_questions,
            parameters={"questions": {language: str(path) for language, path in options.questions.items()}},
            sources={language: file_key(path) for language, path in options.questions.items()},
        )

    def open_answers(self) -> Stage:
        """Answers of the chat model to the open questions under every mask."""
        from crane_lib.stages.open_ended import make_answers

        options = self.profile.open_ended
        return self.store.run(
            "open_answers",
            make_answers,
            inputs={
                "questions": self.open_questions,
                "model": self.model("chat"),
                "selected_on_base": self.selection("base"),
                "selected_on_chat": self.selection("chat"),
            },
            parameters={
                "profile": self.profile.name,
                "model_name": "chat",
                "sets": self.open_sets,
                "random_draws": options.random_draws,
                "max_new_tokens": options.max_new_tokens,
                "repetition_penalty": options.repetition_penalty,
                "batch_size": options.batch_size,
                **self._loading(),
            },
            scratch=True,
        )

    def judged(self, judge: str) -> Stage:
        """Answers as one of the judges scored them: items.parquet."""
        from crane_lib.evaluation.judges_protocol import Endpoint
        from crane_lib.stages.open_ended import make_endpoint_scores, make_offline_scores

        if judge == "offline":
            inputs = {"corpus": self.corpus, "questions": self.open_questions, "answers": self.open_answers()}
            return self.store.run("open_scores_offline", make_offline_scores, inputs=inputs)
        options, endpoint = self.profile.open_ended, Endpoint.from_environment()  # before hours of answers
        return self.store.run(
            "open_scores_endpoint",
            make_endpoint_scores,
            inputs={"answers": self.open_answers()},
            parameters={"judgings": options.judgings, "endpoint_model": endpoint.model},
            sources={"endpoint": endpoint.url},
            # Beside the runs, not in one: answers that were paid for outlive --fresh and serve every profile.
            settings={"concurrency": options.concurrency, "cache": self.folder.parent / "judge_cache"},
        )

    def open_scores(self) -> Stage:
        """Judged answers: rows.csv, items.parquet, and agreement.csv where two judges judged."""
        from crane_lib.stages.open_ended import make_open_scores

        # The main judge last: where an endpoint fails, what was judged here is kept.
        judged = {judge: self.judged(judge) for judge in reversed(self.judges)}
        return self.store.run("open_scores", make_open_scores, inputs=judged, parameters={"judges": self.judges})

    def open_rows(self) -> pd.DataFrame:
        """Result rows of open-ended generation: mean scores of every judge."""
        return read_frame(self.open_scores() / "rows.csv")

    def open_items(self) -> pd.DataFrame:
        """Answers as the study's main judge scored them."""
        items = read_frame(self.open_scores() / "items.parquet")
        return items[items["judge"] == self.judges[0]].reset_index(drop=True)

    def judge_rows(self, judge: str) -> pd.DataFrame:
        """Result rows of one judge, whatever became of the other."""
        from crane_lib.evaluation.open_ended import score_rows

        return score_rows(read_frame(self.judged(judge) / "items.parquet"), main=self.judges[0])
