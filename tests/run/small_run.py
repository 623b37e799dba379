"""A small finished run, made up: every section, two stages, a few tables, claims, and a manifest of all."""

import pandas as pd

from crane_lib.files import write_json, write_text
from crane_run.manifest import describe_run, write_manifest
from crane_run.sections import all_sections
from crane_study.frames import write_frame
from crane_study.paper.verdicts import write_claims
from crane_study.profile import load_profile
from crane_study.store import Store

LANGUAGES = ("en", "zh", "vi")


def make_corpus(folder, *, random_seed):
    write_text(folder / "documents.txt", f"documents {random_seed}")


def make_weights(folder, *, corpus, training):
    write_text(folder / "model" / "model.safetensors", (corpus / "documents.txt").read_text() + str(training))


def _rows(profile, shift):
    """Result rows: unmasked, and a random set of two draws."""
    rows = []
    for evaluated in LANGUAGES:
        for metric, value in (("nll", 2.0), ("accuracy", 0.5)):
            rows.append((profile, "base", "", "none", "", "", evaluated, "t", metric, value + shift, 100, -1))
            for draw in (0, 1):
                place = (profile, "base", "base", "random", "0.1", "en", evaluated, "t", metric)
                rows.append((*place, value + 0.1 * draw + shift, 100, draw))
    columns = ["profile", "model", "selected_on", "method", "budget", "masked_language", "evaluation_language"]
    return pd.DataFrame(rows, columns=[*columns, "task", "metric", "value", "n", "random_seed"])


def make_run(
    folder, *, profile="mini", shift=0.0, verdict="REPRODUCED", documents=12, sections=None, dirty=False, also=None
):
    """Write a run and its manifest; `shift` moves what comes from a model, `sections` are the numbers of those run.

    `also` writes further files into the folder before the manifest is made.
    """
    loaded = load_profile(profile)
    write_text(folder / "profile.yaml", f"name: {profile}\n")
    store = Store(folder / "stages", say=lambda _line: None)
    corpus = store.run("corpus", make_corpus, random_seed=7)
    store.run("base_model", make_weights, corpus=corpus, training={"learning_rate": shift})
    counts = {"language": LANGUAGES, "documents": documents, "split": "train"}
    write_frame(folder / "tables" / "00_documents.csv", pd.DataFrame(counts))
    specific = {"method": ["contrast", "lape"], "metric": "token_probability", "mean": [0.7 + shift, 0.1 + shift]}
    specific |= {"p_value": [0.01, 0.9 - shift], "worst_other": ["vi", "zh" if shift else "vi"]}
    write_frame(folder / "tables" / "03_langspec.csv", pd.DataFrame(specific))
    write_frame(folder / "results.csv", _rows(profile, shift))
    numbers = {"own": 0.7 + shift, "draws": 5, "holds": True}
    claim = {"id": "C3", "method": "contrast", "budget": "0.1", "measure": "accuracy", "verdict": verdict}
    write_claims(folder / "claims.json", [{**claim, "numbers": numbers}], profile=profile)
    write_text(folder / "report.md", "# Report\n")
    if also is not None:
        also(folder)
    done = {"title": "A title", "status": "done", "error": None, "key": "k"}
    done |= {"seconds": 1.5, "threads": 2, "jobs": 1, "outputs": []}
    records = [{"section": item.name, **done} for item in all_sections() if not sections or item.number in sections]
    for record in records:
        write_json(folder / "sections" / f"{record['section']}.json", record)
    write_manifest(folder, {**describe_run(folder, loaded, records), "uncommitted_changes": dirty})
    return folder
