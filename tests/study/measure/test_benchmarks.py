"""MMLU, C-Eval and Belebele: invented rows in the published schemas, compared with the harness's own tasks."""

import gzip
import json
from pathlib import Path

import lm_eval
import numpy as np
import pandas as pd
import pytest
import yaml
from lm_eval.evaluator import evaluate
from lm_eval.tasks import TaskManager

from crane_lib.errors import CraneError
from crane_run import rehearsal as made_up
from crane_study.loading.models import load_model
from crane_study.measure.benchmarks import BENCHMARKS, make_benchmarks, read_benchmark, write_benchmark_tasks
from crane_study.measure.questions import Harness
from tests.small import write_lines

THEIRS = Path(lm_eval.__file__).parent / "tasks"
SUBJECTS = {"mmlu": ["abstract_algebra", "world_religions"], "ceval": ["law", "logic"]}
NAMES = {"en": "mmlu", "zh": "ceval", "vi": "belebele"}
TEMPLATES = {
    "mmlu": ("mmlu/default", "_default_template_yaml", "mmlu_{}.yaml"),
    "ceval": ("ceval", "_default_ceval_yaml", "ceval-valid_{}.yaml"),
    "belebele": ("belebele", "_default_template_yaml", "belebele_{}.yaml"),
}


def write_rows(folder: Path, language: str, *, questions=6):
    name = NAMES[language]
    if name == "belebele":
        made_up.write_belebele(folder, config="vie_Latn", language="vi", questions=questions)
    else:
        write = made_up.write_mmlu if name == "mmlu" else made_up.write_ceval
        write(folder, subjects=SUBJECTS[name], questions=questions)
    return folder


def task(language, folder, **changes):
    plain = {"name": NAMES[language], "path": str(folder), "dataset": None, "revision": "main", "config": "vie_Latn"}
    return plain | {"subjects": None, "limit": None} | changes


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Folder of the stage, for three languages."""
    root = tmp_path_factory.mktemp("rows")
    tasks = {language: task(language, write_rows(root / language, language)) for language in NAMES}
    (root / "stage").mkdir()
    make_benchmarks(root / "stage", tasks=tasks, few_shot=5)
    return root / "stage"


@pytest.fixture(scope="module")
def model_and_tokenizer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    architecture = {"model_type": "llama", "hidden_size": 4096, "intermediate_size": 11008, "num_attention_heads": 32}
    made_up.write_models(folder, None, architecture=architecture, languages=list(NAMES))
    return load_model(folder, device="cpu")


@pytest.fixture(scope="module")
def ours(made, model_and_tokenizer, tmp_path_factory):
    tasks = tmp_path_factory.mktemp("tasks")
    write_benchmark_tasks(tasks, made, few_shot=5, delimiters={})
    return Harness(*model_and_tokenizer, tasks, batch_size=4, chat=False, random_seed=2025)


def their_task(made, folder, language, subject):
    """The harness's own definition on our rows: only the source of the data is changed."""
    place, template, file = TEMPLATES[NAMES[language]]
    merged = {}
    for name in (template, file.format(subject)):
        merged |= yaml.safe_load((THEIRS / place / name).read_text(encoding="utf-8"))
    for key in ("include", "dataset_name", "tag", "task_alias"):
        merged.pop(key, None)
    stem = made / language / subject
    asked = merged.get("validation_split") or merged["test_split"]
    files = {asked: f"{stem}.asked.parquet"}
    if merged["fewshot_split"] != asked:
        files[merged["fewshot_split"]] = f"{stem}.examples.parquet"
    merged |= {"task": "theirs", "dataset_path": "parquet", "num_fewshot": 5}
    merged |= {"dataset_kwargs": {"data_files": files, "cache_dir": str(folder / "cache")}}
    (folder / "theirs.yaml").write_text(yaml.safe_dump(merged, allow_unicode=True), encoding="utf-8")
    loaded = TaskManager(include_defaults=False, include_path=str(folder)).load(["theirs"])["tasks"]["theirs"]
    loaded.set_fewshot_seed(2025)
    return loaded


CASES = [("en", "abstract_algebra"), ("en", "world_religions"), ("zh", "law"), ("zh", "logic"), ("vi", "vie_Latn")]


@pytest.mark.parametrize(("language", "subject"), CASES)
def test_prompts_are_the_harnesss_own(made, ours, tmp_path, language, subject):
    theirs = their_task(made, tmp_path, language, subject)
    theirs.build_all_requests()
    expected = [(instance.args, instance.doc_id) for instance in theirs.instances]
    found = [(instance.args, instance.doc_id) for instance in ours._tasks[f"crane_{language}__{subject}"].instances]
    assert len(found) == 4 * 6
    assert found == expected
    prompt = found[0][0][0]
    assert prompt.count("Answer:" if language != "zh" else "答案：") == 6  # five examples and the question


def test_scores_are_the_harnesss_own(ours):
    found = ours.accuracy()
    result = evaluate(
        lm=ours._model, task_dict={"tasks": ours._tasks, "groups": {}}, bootstrap_iters=0, log_samples=True
    )
    for name, samples in result["samples"].items():
        language, _, subject = name.removeprefix("crane_").partition("__")
        rows = found[(found["language"] == language) & (found["subject"] == subject)]
        ordered = sorted(samples, key=lambda sample: sample["doc_id"])
        assert rows["correct"].tolist() == [sample["acc"] == 1.0 for sample in ordered]
        for margin, sample in zip(rows["margin"], ordered, strict=True):
            scores = np.array([response[0] for response in sample["filtered_resps"]])
            gold = int(sample["target"])
            assert margin == pytest.approx(scores[gold] - np.delete(scores, gold).max(), abs=2e-4)
    assert 0 < found["correct"].sum() < len(found) == 6 * 5


@pytest.mark.parametrize(("name", "count"), [("mmlu", 57), ("ceval", 52)])
def test_every_subject_is_introduced_as_in_the_harness(name, count):
    place, _template, file = TEMPLATES[name]
    files = sorted((THEIRS / place).glob(file.format("*")))
    assert len(files) == count
    for path in files:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
        assert BENCHMARKS[name].describe(values["dataset_name"]) == values["description"]


def test_other_layouts_and_formats_read_the_same(tmp_path, made):
    index = json.loads((made / "benchmarks.json").read_text())
    subjects = {language: about["subjects"] for language, about in index.items()}
    assert subjects == {"en": SUBJECTS["mmlu"], "zh": SUBJECTS["ceval"], "vi": ["vie_Latn"]}
    assert all(len(hash_) == 64 for about in index.values() for hash_ in about["sha256"].values())
    hub = write_rows(tmp_path / "hub", "zh")
    flat = tmp_path / "flat"
    for path in sorted(hub.rglob("*.parquet")):
        split = path.name.partition("-")[0]
        (flat / split).mkdir(parents=True, exist_ok=True)
        frame = pd.read_parquet(path)
        if split == "dev":
            frame.to_csv(flat / split / f"{path.parent.name}_{split}.csv", index=False)
        else:
            frame.to_json(flat / split / f"{path.parent.name}_{split}.JSONL.gz", orient="records", lines=True)
    one, other = (read_benchmark("ceval", folder, config="") for folder in (hub, flat))
    assert list(one) == list(other) == ["law", "logic"]
    for subject in one:
        for role in ("asked", "examples"):
            pd.testing.assert_frame_equal(one[subject][role], other[subject][role])
    mmlu = write_rows(tmp_path / "mmlu", "en")
    (tmp_path / "csv").mkdir()
    for path in (mmlu / "all").glob("*.parquet"):
        frame = pd.read_parquet(path)
        frame["choices"] = [json.dumps(list(options)) for options in frame["choices"]]
        frame.to_csv(tmp_path / "csv" / f"{path.name.partition('-')[0]}.csv", index=False)
    one, other = (read_benchmark("mmlu", folder, config="") for folder in (mmlu, tmp_path / "csv"))
    for subject in SUBJECTS["mmlu"]:
        pd.testing.assert_frame_equal(one[subject]["asked"], other[subject]["asked"])


def rename_column(path):
    pd.read_parquet(path).rename(columns={"C": "option_c"}).to_parquet(path)


def change(path, column, value):
    frame = pd.read_parquet(path)
    frame[column] = [value] * len(frame)
    frame.to_parquet(path)


def wrong_answer(path):
    frame = pd.read_parquet(path)
    frame.loc[2, "answer"] = "E"
    frame.to_parquet(path)


@pytest.mark.parametrize(
    ("mistake", "words"),
    [
        (rename_column, r"law/val-.*parquet: has no column 'C'; expected question, A, B, C, D, answer, seen id, quest"),
        (wrong_answer, r"law/val-.*parquet: row 3: answer is 'E', expected one of A, B, C, D"),
        (lambda path: change(path, "B", 1990), r"law/val-.*parquet: row 1: B is 1990, expected a text"),
        (
            lambda path: path.with_suffix(".jsonl").write_text('{"A": "\\ud83d"}'),
            r"val.*jsonl: line 1: contains half a",
        ),
        (lambda path: path.with_name("dev-00000-of-00001.parquet").unlink(), r"law has 0 rows to take 5 examples from"),
        (lambda path: path.write_text("hello"), r"law/val-.*parquet: cannot be read"),
    ],
)
def test_a_wrong_file_is_one_line(tmp_path, mistake, words):
    folder = write_rows(tmp_path / "rows", "zh")
    mistake(folder / "law" / "val-00000-of-00001.parquet")
    with pytest.raises(CraneError, match=words) as error:
        make_benchmarks(tmp_path / "out", tasks={"zh": task("zh", folder)}, few_shot=5)
    assert "\n" not in str(error.value)


def test_an_unknown_subject_and_missing_files(tmp_path):
    write_rows(tmp_path / "rows", "zh")
    (tmp_path / "empty").mkdir()
    for language, folder, subjects, words in (
        ("zh", "rows", ["lwa"], "has no subject 'lwa'; did you mean 'law'"),
        ("zh", "none", None, "no such folder"),
        ("en", "empty", None, "has no test files"),
        ("vi", "empty", None, r"has no vie_Latn\.jsonl"),
    ):
        tasks = {language: task(language, tmp_path / folder, subjects=subjects)}
        with pytest.raises(CraneError, match=words):
            make_benchmarks(tmp_path / "out", tasks=tasks, few_shot=5)


def test_a_limit_applies_per_subject_and_no_subject_leads_out_of_the_folder(tmp_path):
    folder = write_rows(tmp_path / "rows", "en")
    make_benchmarks(tmp_path / "out", tasks={"en": task("en", folder, limit=2)}, few_shot=5)
    assert [len(pd.read_parquet(path)) for path in sorted((tmp_path / "out/en").glob("*.asked.parquet"))] == [2, 2]
    whole = read_benchmark("mmlu", folder, config="")
    for draw in range(3):  # not the first ones, the same ones again
        for again in "ab":
            out = tmp_path / f"{draw}{again}"
            make_benchmarks(out, tasks={"en": task("en", folder, limit=2)}, few_shot=5, random_seed=draw)
    for subject, frames in whole.items():
        every = frames["asked"]["question"].tolist()
        name = f"en/{subject}.asked.parquet"
        drawn = [
            [pd.read_parquet(tmp_path / f"{draw}{k}" / name)["question"].tolist() for k in "ab"] for draw in range(3)
        ]
        assert all(first == second for first, second in drawn)
        places = [[every.index(question) for question in first] for first, _second in drawn]
        assert all(place == sorted(place) for place in places)
        assert any(place != [0, 1] for place in places)
    for path in folder.rglob("*.parquet"):
        pd.read_parquet(path).assign(subject="../../elsewhere").to_parquet(path)
    with pytest.raises(CraneError, match=r"'\.\./\.\./elsewhere' is not a valid name of a subject"):
        make_benchmarks(tmp_path / "out", tasks={"en": task("en", folder)}, few_shot=5)
    assert not list(tmp_path.rglob("elsewhere*"))


def test_questions_about_one_passage_are_a_group_and_so_are_subjects_where_there_are_ten(made, ours, tmp_path):
    folder = write_rows(tmp_path / "vi", "vi")
    (path,) = folder.rglob("vie_Latn.jsonl")
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    write_lines(path, [row | {"flores_passage": f"passage {n // 2}"} for n, row in enumerate(rows)])
    make_benchmarks(tmp_path / "out", tasks={"vi": task("vi", folder)}, few_shot=5)
    groups = pd.read_parquet(tmp_path / "out/vi/vie_Latn.asked.parquet")["group"].tolist()
    assert groups == [f"flores_passage {number // 2}" for number in range(6)]
    assert set(ours.accuracy().query("language != 'vi'")["group"]) == {""}  # of two subjects, questions count
    made_up.write_mmlu(tmp_path / "en", subjects=[f"s{n}" for n in range(10)], questions=6)
    make_benchmarks(tmp_path / "out", tasks={"en": task("en", tmp_path / "en")}, few_shot=5)
    for n in range(10):
        assert set(pd.read_parquet(tmp_path / f"out/en/s{n}.asked.parquet")["group"]) == {f"s{n}"}


def test_options_of_mmlu_are_texts_and_belebele_may_be_compressed(tmp_path):
    folder = write_rows(tmp_path / "en", "en")
    for path in folder.rglob("test*.parquet"):
        change(path, "choices", [0.1, 0.2, 1.0, 2.0])
    with pytest.raises(CraneError, match=r"test.*parquet: row 1: choices is not a list of texts \(\[0\.1, "):
        read_benchmark("mmlu", folder, config="")
    plain = write_rows(tmp_path / "vi", "vi")
    (path,) = plain.rglob("vie_Latn.jsonl")
    expected = read_benchmark("belebele", plain, config="vie_Latn")["vie_Latn"]["asked"]
    path.with_suffix(".JSONL.gz").write_bytes(gzip.compress(path.read_bytes()))
    path.unlink()
    found = read_benchmark("belebele", plain, config="vie_Latn")["vie_Latn"]["asked"]
    pd.testing.assert_frame_equal(found, expected)
