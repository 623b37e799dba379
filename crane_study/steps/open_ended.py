"""Steps: open questions, the chat model's answers to them under every mask, and the judges' scores."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
from transformers import PreTrainedModel

from crane_lib.files import read_json, write_json
from crane_lib.neurons import read_neuron_sets
from crane_lib.parallel import rank
from crane_study.data.cldr import Fact
from crane_study.data.questions import choose_facts, known_answers, open_questions
from crane_study.data.user_files import read_open_questions
from crane_study.frames import read_frame, write_frame
from crane_study.measure.generation import answer_nll, chat_prompt, greedy_answers
from crane_study.measure.judge_endpoint import EndpointJudge
from crane_study.measure.judge_offline import OfflineJudge, agreement
from crane_study.measure.judgings import Endpoint
from crane_study.measure.rows import mask_labels
from crane_study.options import AnswerOptions
from crane_study.steps.masks import Mask, by_model, evaluate_masks, every_neuron
from crane_study.steps.selection import sets_file
from crane_study.uncertainty.open_ended import score_rows


def make_embedded_questions(folder: Path, *, corpus: Path, count: int, random_seed: int) -> None:
    """Write questions.parquet and knowledge.json: open questions about benchmark facts, and all known answers."""
    facts = [Fact(**entry) for entry in read_json(corpus / "facts.json")]
    held_out = set(pd.read_json(corpus / "questions.en.jsonl", lines=True)["key"])
    chosen = choose_facts(facts, held_out=held_out, count=count, random_seed=random_seed)
    write_frame(folder / "questions.parquet", pd.DataFrame(open_questions(chosen)))
    write_json(folder / "knowledge.json", known_answers(facts))


def make_file_questions(folder: Path, *, questions: dict[str, str]) -> None:
    """Write questions.parquet from text files and an empty knowledge.json, because no answers are known."""
    files = {language: Path(path) for language, path in questions.items()}
    write_frame(folder / "questions.parquet", read_open_questions(files))
    write_json(folder / "knowledge.json", [])


def _masks(selections: dict[str, Path], options: AnswerOptions) -> list[Mask]:
    """List the unmasked model, and the chosen sets with the model that they were selected on."""
    masks: list[Mask] = [("", None)]
    for selected_on, folder in selections.items():
        for method, budget in options.sets.get(selected_on, []):
            found = read_neuron_sets(sets_file(folder, method, budget))
            masks += [(selected_on, item) for item in found if item.random_seed < options.random_draws]
    return masks


def _distinct_nll(model: PreTrainedModel, prompts: list[list[int]], answers: list[tuple[int, ...]]) -> list[float]:
    """NLL of every answer under the model in its current state, computed once for equal answers to a question."""
    asked = [(tuple(prompt), answer) for prompt, answer in zip(prompts, answers, strict=True)]
    pairs = list(dict.fromkeys(asked))
    values = answer_nll(model, [prompt for prompt, _ids in pairs], [ids for _prompt, ids in pairs])
    known = dict(zip(pairs, values.tolist(), strict=True))
    return [known[pair] for pair in asked]


def make_answers(
    folder: Path, *, questions: Path, model: Path, options: AnswerOptions, scratch: Path | None = None, **sets: Path
) -> None:
    """Write answers.parquet: every answer under every mask.

    Columns: profile, model, those of the mask, language, question (its number), text, answer, tokens (of the answer,
    without the end token), finished, nll (of answer and end token under the unmasked model, nats) and nll_tokens.
    """
    network, tokenizer = options.loading.load(model)
    asked = read_frame(questions / "questions.parquet")
    prompts = [chat_prompt(tokenizer, text) for text in asked["text"]]
    masks = _masks(by_model(sets), options) + every_neuron(network, options)

    def evaluate() -> pd.DataFrame:
        given = {name: getattr(options, name) for name in ("max_new_tokens", "repetition_penalty", "batch_size")}
        found = greedy_answers(network, tokenizer, prompts, **given)
        return pd.DataFrame(found).rename(columns={"text": "answer"})

    evaluated = evaluate_masks(network, masks, evaluate, description="Open questions under masks", scratch=scratch)
    by_place = {place: found for places, found in evaluated for place in places}
    if rank() > 0:
        return
    frames = [
        pd.concat([asked[["language", "question", "text"]], by_place[place]], axis=1).assign(
            **options.labels, **mask_labels(neurons, selected_on=selected_on)
        )
        for place, (selected_on, neurons) in enumerate(masks)
    ]
    frame = pd.concat(frames, ignore_index=True)
    frame["nll_tokens"] = frame["ids"].map(len)
    frame["tokens"] = frame["nll_tokens"] - frame["finished"]
    frame["nll"] = _distinct_nll(network, prompts * len(masks), [tuple(ids) for ids in frame["ids"]])
    first = ["profile", "model", *mask_labels(None, selected_on="")]
    rest = ["language", "question", "text", "answer", "tokens", "finished", "nll", "nll_tokens"]
    write_frame(folder / "answers.parquet", frame[[*first, *rest]])


def make_offline_scores(folder: Path, *, corpus: Path, questions: Path, answers: Path) -> None:
    """Write items.parquet: every answer with its score by the offline judge."""
    documents = pd.read_parquet(corpus / "documents.parquet", columns=["split", "language", "text"])
    texts = documents[documents["split"] == "relevance"].groupby("language")["text"]
    judge = OfflineJudge(
        read_frame(questions / "questions.parquet"),
        read_json(questions / "knowledge.json"),
        {str(language): own.tolist() for language, own in texts},
    )
    _write_items(folder, read_frame(answers / "answers.parquet"), judge)


def make_endpoint_scores(
    folder: Path, *, answers: Path, judgings: int, endpoint_model: str, concurrency: int, cache: Path
) -> None:
    """Write items.parquet: every answer with its score by the endpoint's model, which the environment names.

    `endpoint_model` only identifies the stage; the judgings are kept in `cache`.
    """
    judge = EndpointJudge(Endpoint.from_environment(), cache, judgings=judgings, concurrency=concurrency)
    _write_items(folder, read_frame(answers / "answers.parquet"), judge)


def _write_items(folder: Path, answers: pd.DataFrame, judge: OfflineJudge | EndpointJudge) -> None:
    scored = pd.concat([answers, judge.score(answers)], axis=1).assign(judge=judge.name)
    write_frame(folder / "items.parquet", scored)


def make_open_scores(
    folder: Path, *, judges: list[str], offline: Path | None = None, endpoint: Path | None = None
) -> None:
    """Write items.parquet (every answer by every judge), rows.csv, and agreement.csv if there are two judges.

    The main judge is the first one; `offline` and `endpoint` are the folders of the judges' scores.
    """
    given = {"offline": offline, "endpoint": endpoint}
    parts = [read_frame(place / "items.parquet") for name in judges if (place := given[name]) is not None]
    judged = pd.concat(parts, ignore_index=True)
    write_frame(folder / "items.parquet", judged)
    write_frame(folder / "rows.csv", score_rows(judged, main=judges[0]))
    if len(judges) > 1:
        write_frame(folder / "agreement.csv", agreement(judged))
