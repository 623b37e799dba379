from pathlib import Path

import pytest
import yaml

from crane_lib.errors import CraneError
from crane_run.sections import all_sections
from crane_study import labels
from crane_study import profile as profiles
from crane_study.profile import (
    CONFIGS,
    EmbeddedSource,
    LocalSource,
    Profile,
    load_profile,
    profile_names,
    profile_path,
)
from crane_study.study import Study
from tests.small import TEXTS, write_study

TRAINING = {"learning_rate": 0.001, "batch_size": 4}


def embedded(**changes):
    source = {"kind": "embedded", "base": TRAINING, "chat": TRAINING}
    return {"description": "a test", "source": source, **changes}


def local(**changes):
    source = {"kind": "local", "base_model": "model", "texts": {"de": "de.txt", "fr": "fr.jsonl"}}
    return {"description": "a test", "languages": {"de": "German", "fr": "French"}, "source": source | changes}


def hub(**text):
    texts = {"de": {"dataset": "set"}, "fr": {"file": "fr.txt"} | text}
    return local() | {"source": {"kind": "hub", "base_model": {"id": "model"}, "texts": texts}}


def embedded_source(**changes):
    return {"source": embedded()["source"] | changes}


def written(folder: Path, values, name="own.yaml") -> str:
    path = folder / name
    path.write_text(values if isinstance(values, str) else yaml.safe_dump(values, allow_unicode=True), "utf-8")
    return str(path)


def complaint(folder: Path, values) -> str:
    with pytest.raises(CraneError) as error:
        load_profile(written(folder, values))
    message = str(error.value)
    assert message.startswith("profile own.yaml: ")
    assert "\n" not in message
    return message


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_profile_of_the_repository_loads_and_so_does_its_resolved_form(path, tmp_path):
    loaded = load_profile(path.stem)
    assert loaded.name == path.stem
    assert loaded.description
    parts = {name for section in all_sections() for name in (section.number, *section.declared.stages)}
    assert set(loaded.expected_seconds) <= parts | {"report"}
    assert load_profile(str(path)) == loaded
    assert load_profile(written(tmp_path, loaded.resolved())) == loaded


def test_defaults_are_filled_in_and_the_file_names_the_profile(tmp_path):
    loaded = load_profile(written(tmp_path, embedded()))
    assert loaded.name == "own"
    assert isinstance(loaded.source, EmbeddedSource)
    assert loaded.source.architecture.layers == 4
    assert loaded.relevance.objectives == ("gold_logit", "log_probability")
    assert loaded.resolved()["selection"]["lape"] == {"threshold_quantile": 0.95, "share": 0.01}
    assert list(loaded.languages) == ["en", "zh", "vi"]


@pytest.mark.parametrize(
    ("changes", "key", "hint"),
    [
        ({"random_sed": 1}, "random_sed", "random_seed"),
        ({"selection": {"bugdet": 0.1}}, "selection.bugdet", "budget"),
        ({"selection": {"lape": {"shares": 0.1}}}, "selection.lape.shares", "share"),
        ({"relevance": {"token_budgets": 5}}, "relevance.token_budgets", "token_budget"),
        (embedded_source(base=TRAINING | {"batchsize": 3}), "source.base.batchsize", "batch_size"),
        (embedded_source(knowledge={"fact_per_subject": 3}), "source.knowledge.fact_per_subject", "facts_per_subject"),
        (local(base_modle="m"), "source.base_modle", "base_model"),
        (local() | {"open_ended": {"judges": "both"}}, "open_ended.judges", "judge"),
        (
            {"selection": {"qqqq": 1}},
            "selection.qqqq",
            "known: methods, budget, kurtosis_threshold, lape, random_draws",
        ),
    ],
)
def test_an_unknown_key_names_the_nearest_right_one_or_all(tmp_path, changes, key, hint):
    message = complaint(tmp_path, embedded(**changes))
    hint = hint if ", " in hint else f"did you mean {hint!r}?"
    assert f"unknown key {key!r}; {hint}" in message


@pytest.mark.parametrize(
    ("changes", "name", "seen"),
    [
        ({"selection": {"budget": 1.5}}, "selection.budget", "1.5"),
        ({"selection": {"budget": "much"}}, "selection.budget", "much"),
        ({"selection": {"random_draws": 2}}, "selection.random_draws", "2"),
        ({"random_seed": -1}, "random_seed", "-1"),
        ({"dtype": "float16"}, "dtype", "float16"),
        ({"relevance": {"objectives": ["gold"]}}, "relevance.objectives.0", "gold"),
        ({"relevance": "attnlrp"}, "relevance", "attnlrp"),
        ({"name": "Mini Profile"}, "name", "Mini Profile"),
        ({"name": "../mini"}, "name", "../mini"),
        ({"source": {"kind": "remote"}}, "source", "remote"),
        ({"source": "local"}, "source", "local"),
        ({"source": None}, "source", "None"),
        ({"random_seed": -1, "dtype": "int8"}, "random_seed", "(and 1 more)"),
        ({"languages": {"en": "English"}}, "languages: has ['en'], at least two", "en"),
        ({"languages": {"en": "English", "fr": "French"}}, "languages: has ['en', 'fr'], the embedded facts", "fr"),
        ({"relevance": {"max_length": 8, "skip_first_tokens": 8}}, "relevance: skip_first_tokens is 8", "skip fewer"),
        ({"relevance": {"processes": 0}}, "relevance.processes", "0"),
        ({"open_ended": {"judge": "gpt"}}, "open_ended.judge", "gpt"),
        ({"open_ended": {"concurrency": 0}}, "open_ended.concurrency", "0"),
        ({"open_ended": {"repetition_penalty": 0.9}}, "open_ended.repetition_penalty", "0.9"),
        (hub(config="fr"), "source.texts.fr: config, split and revision belong to a dataset", "'file':"),
        (hub(dataset="set"), "source.texts.fr: give either dataset", "'file':"),
        (local(texts={"de": "a"}), "source.texts: has ['de'], the languages are ['de', 'fr']", "one entry"),
        (local(questions={"de": "a"}), "source.questions: has ['de'], the languages are ['de', 'fr']", "one entry"),
        (
            local() | {"open_ended": {"questions": {"de": "a.txt"}}},
            "open_ended.questions: has ['de'], the languages are ['de', 'fr']",
            "one entry",
        ),
    ],
)
def test_a_wrong_value_is_named_with_what_was_seen(tmp_path, changes, name, seen):
    message = complaint(tmp_path, embedded(**changes))
    assert message.startswith(f"profile own.yaml: {name}")
    assert seen in message


@pytest.mark.parametrize(
    ("content", "message"),
    [
        *((text, "is not YAML") for text in (b"a: [1", b"a: b: c", b"\t- x", b"description: \xff\xfe\xfa")),
        (b"", "expected keys and values, saw NoneType"),
        (b"- a\n- b", "expected keys and values, saw list"),
        (b"word", "expected keys and values, saw str"),
    ],
)
def test_a_file_that_is_no_profile(tmp_path, content, message):
    (tmp_path / "own.yaml").write_bytes(content)
    with pytest.raises(CraneError, match=message):
        load_profile(str(tmp_path / "own.yaml"))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("minni", r"unknown profile 'minni'; did you mean 'mini'\?"),
        ("zzz", r"unknown profile 'zzz'; known: .*mini"),
        ("absent.yaml", r"absent\.yaml: no such file"),
    ],
)
def test_an_unknown_profile_names_the_nearest(name, message):
    with pytest.raises(CraneError, match=message):
        load_profile(name)


def test_a_profile_given_by_path_is_found_from_the_working_directory(tmp_path, monkeypatch):
    written(tmp_path, embedded())
    monkeypatch.chdir(tmp_path)
    assert profile_path("own.yaml") == tmp_path / "own.yaml"


def test_paths_are_relative_to_the_profiles_file(tmp_path, monkeypatch):
    folder = tmp_path / "profiles"
    folder.mkdir()
    texts = {"de": "texts/de.txt", "fr": "/data/fr.jsonl"}
    questions = {"de": "q.jsonl", "fr": "/data/q.jsonl"}
    values = local(chat_model="../chat", texts=texts, questions=questions)
    path = written(folder, values | {"open_ended": {"questions": texts, "judge": "both"}})
    monkeypatch.chdir(tmp_path)
    profile = load_profile(path)
    source = profile.source
    assert isinstance(source, LocalSource)
    assert (source.base_model, source.chat_model) == (folder / "model", tmp_path / "chat")
    assert source.texts == {"de": folder / "texts" / "de.txt", "fr": Path("/data/fr.jsonl")}
    assert source.questions == {"de": folder / "q.jsonl", "fr": Path("/data/q.jsonl")}
    assert profile.open_ended.questions == source.texts
    again = load_profile(written(folder, profile.resolved(), "again.yaml"))
    assert (again.source, again.open_ended) == (source, profile.open_ended)


def test_a_local_source_without_chat_and_questions(tmp_path):
    source = load_profile(written(tmp_path, local())).source
    assert isinstance(source, LocalSource)
    assert (source.chat_model, source.questions) == (None, None)


def test_the_folder_of_profiles_is_the_repositorys(monkeypatch, tmp_path):
    monkeypatch.setattr(profiles, "CONFIGS", tmp_path)
    written(tmp_path, embedded())
    assert profile_names() == ["own"]
    assert isinstance(load_profile("own"), Profile)


def test_norwegian_needs_no_quotes_as_a_key_and_elsewhere_it_is_said(tmp_path):
    write_study(tmp_path, texts={"no": TEXTS["en"], "vi": TEXTS["vi"]}, questions=False)
    path = tmp_path / "small.yaml"
    path.write_text(path.read_text(encoding="utf-8").replace("'no':", "no:"), encoding="utf-8")
    loaded = load_profile(str(path))
    assert list(loaded.languages) == ["no", "vi"]
    assert loaded.source.texts["no"].name == "no.jsonl"
    kept = tmp_path / "kept.yaml"
    kept.write_text(yaml.safe_dump(loaded.resolved()), encoding="utf-8")
    assert load_profile(str(kept)).languages == loaded.languages
    path.write_text(path.read_text(encoding="utf-8") + "paper:\n  lape_list_languages: [no]\n", encoding="utf-8")
    with pytest.raises(CraneError, match=r"YAML reads no, yes, on and off as true or false, so put them in quotes"):
        load_profile(str(path))


def test_names_of_languages_are_shown_in_the_profiles_order(tmp_path):
    path = write_study(tmp_path, questions=False)
    values = yaml.safe_load(path.read_text(encoding="utf-8")) | {"languages": {"vi": "Tiếng Việt", "en": "en"}}
    path.write_text(yaml.safe_dump(values, sort_keys=False), encoding="utf-8")
    assert labels.language_name("vi") == "Vietnamese"
    Study.open(str(path), artifacts=tmp_path / "artifacts")
    assert (labels.language_name("vi"), labels.language_name("en")) == ("Tiếng Việt", "English")
    assert labels.ordered_languages(["en", "zh", "vi", "ab"]) == ["vi", "en", "zh", "ab"]
    Study.open("smoke", artifacts=tmp_path / "artifacts")
    assert labels.ordered_languages(["vi", "zh", "en"]) == ["en", "zh", "vi"]
    values["languages"] = {"vi": "Same", "en": "Same "}
    path.write_text(yaml.safe_dump(values), encoding="utf-8")
    with pytest.raises(CraneError, match="languages: two are named 'Same'; figures tell them apart by name"):
        load_profile(str(path))
