from pathlib import Path

import pytest
import yaml

from crane_lib.errors import CraneError
from crane_study import profile as profiles
from crane_study.profile import (
    CONFIGS,
    EmbeddedSource,
    LocalSource,
    Profile,
    Relevance,
    load_profile,
    profile_names,
    profile_path,
)

TRAINING = {"learning_rate": 0.001, "batch_size": 4}


def embedded(**changes):
    return {
        "description": "a test",
        "source": {"kind": "embedded", "base": TRAINING, "chat": TRAINING},
        **changes,
    }


def local(**changes):
    source = {"kind": "local", "base_model": "model", "texts": {"de": "de.txt", "fr": "fr.jsonl"}}
    return {"description": "a test", "languages": {"de": "German", "fr": "French"}, "source": source | changes}


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
def test_every_profile_of_the_repository_loads(path):
    loaded = load_profile(path.stem)
    assert loaded.name == path.stem
    assert loaded.description
    assert load_profile(str(path)) == loaded


@pytest.mark.parametrize("name", profile_names())
def test_a_resolved_profile_is_the_same_profile(name, tmp_path):
    loaded = load_profile(name)
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
    ("changes", "key", "right"),
    [
        ({"random_sed": 1}, "random_sed", "random_seed"),
        ({"selection": {"bugdet": 0.1}}, "selection.bugdet", "budget"),
        ({"selection": {"lape": {"shares": 0.1}}}, "selection.lape.shares", "share"),
        ({"relevance": {"token_budgets": 5}}, "relevance.token_budgets", "token_budget"),
        (embedded_source(base=TRAINING | {"batchsize": 3}), "source.base.batchsize", "batch_size"),
        (embedded_source(knowledge={"fact_per_subject": 3}), "source.knowledge.fact_per_subject", "facts_per_subject"),
        (local(base_modle="m"), "source.base_modle", "base_model"),
        (local() | {"open_ended": {"judges": "both"}}, "open_ended.judges", "judge"),
    ],
)
def test_an_unknown_key_names_the_nearest_right_one(tmp_path, changes, key, right):
    message = complaint(tmp_path, embedded(**changes))
    assert f"unknown key {key!r}; did you mean {right!r}?" in message


def test_a_key_like_no_other_lists_what_is_known(tmp_path):
    message = complaint(tmp_path, embedded(selection={"qqqq": 1}))
    assert "unknown key 'selection.qqqq'; known: methods, budget, kurtosis_threshold, lape, random_draws" in message


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


def test_paths_of_a_local_source_are_relative_to_its_file(tmp_path, monkeypatch):
    folder = tmp_path / "profiles"
    folder.mkdir()
    path = written(
        folder,
        local(
            chat_model="../chat",
            texts={"de": "texts/de.txt", "fr": "/data/fr.jsonl"},
            questions={"de": "q.jsonl", "fr": "/data/q.jsonl"},
        ),
    )
    monkeypatch.chdir(tmp_path)
    source = load_profile(path).source
    assert isinstance(source, LocalSource)
    assert source.base_model == folder / "model"
    assert source.chat_model == tmp_path / "chat"
    assert source.texts == {"de": folder / "texts" / "de.txt", "fr": Path("/data/fr.jsonl")}
    assert source.questions == {"de": folder / "q.jsonl", "fr": Path("/data/q.jsonl")}


def test_a_local_source_without_chat_and_questions(tmp_path):
    source = load_profile(written(tmp_path, local())).source
    assert isinstance(source, LocalSource)
    assert source.chat_model is None
    assert source.questions is None
    assert load_profile(written(tmp_path, load_profile(str(tmp_path / "own.yaml")).resolved())).source == source


@pytest.mark.parametrize("field", ["texts", "questions"])
def test_a_local_source_names_one_file_a_language(tmp_path, field):
    message = complaint(tmp_path, local(**{field: {"de": "a.txt"}}))
    assert f"source.{field}: has ['de'], the languages are ['de', 'fr']" in message


def test_expected_seconds_name_sections():
    from crane_run.sections import all_sections

    known = {section.number for section in all_sections()}
    for name in profile_names():
        assert set(load_profile(name).expected_seconds) <= known


def test_the_folder_of_profiles_is_the_repositorys(monkeypatch, tmp_path):
    monkeypatch.setattr(profiles, "CONFIGS", tmp_path)
    written(tmp_path, embedded())
    assert profile_names() == ["own"]
    assert isinstance(load_profile("own"), Profile)


def test_processes_and_checkpointing_of_the_relevance_pass(tmp_path):
    assert (Relevance().processes, Relevance().checkpointing) == (1, False)
    loaded = load_profile(written(tmp_path, embedded(relevance={"processes": 4, "checkpointing": True})))
    assert (loaded.relevance.processes, loaded.relevance.checkpointing) == (4, True)
    assert "relevance.processes" in complaint(tmp_path, embedded(relevance={"processes": 0}))


def test_open_questions_are_found_from_the_profiles_folder(tmp_path):
    asked = {"de": "open.de.txt", "fr": "/elsewhere/fr.txt"}
    values = local() | {"open_ended": {"questions": asked, "judge": "both"}}
    profile = load_profile(written(tmp_path, values))
    assert profile.open_ended.questions == {"de": tmp_path / "open.de.txt", "fr": Path("/elsewhere/fr.txt")}
    assert load_profile(written(tmp_path, profile.resolved(), "again.yaml")).open_ended == profile.open_ended


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"questions": {"de": "a.txt"}}, r"open_ended\.questions: has \['de'\], the languages are \['de', 'fr'\]"),
        ({"judge": "gpt"}, r"open_ended\.judge: "),
        ({"concurrency": 0}, r"open_ended\.concurrency: "),
        ({"repetition_penalty": 0.9}, r"open_ended\.repetition_penalty: "),
    ],
)
def test_wrong_open_ended_options_are_named(tmp_path, options, message):
    with pytest.raises(CraneError, match=message):
        load_profile(written(tmp_path, local() | {"open_ended": options}))
