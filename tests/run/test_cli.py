import json
import os
import re
import shutil
import sys
import time

import numpy as np
import pytest
import torch

from crane_lib import interventions
from crane_lib.errors import CraneError
from crane_lib.interventions import export_masked, masked
from crane_lib.neurons import NeuronSet, write_neuron_sets
from crane_lib.parallel import OtherProcessEnded
from crane_lib.relevance import Statistics, stream_statistics
from crane_run import cli, runner
from crane_run import schedule as estimate
from crane_run.runner import Run
from crane_run.sections import all_sections
from crane_study import progress
from crane_study.loading.models import load_model
from crane_study.profile import profile_names
from crane_study.study import Study
from tests.run.program import CRANE, SEVERAL, call, process
from tests.small import TEXTS, write_lines, write_model, write_study


@pytest.mark.parametrize("arguments", [("--help",), ("run", "--list"), ("run", "--help")])
def test_what_computes_nothing_does_not_load_what_computes(arguments):
    program = (
        "import sys; from crane_run import cli\n"
        "try: cli.main()\n"
        "finally: print([name for name in ('torch', 'papermill') if name in sys.modules], file=sys.stderr)"
    )
    done = process(sys.executable, "-c", program, *arguments)
    assert (done.returncode, done.stderr) == (0, "[]\n")


@pytest.mark.parametrize("mistake", [["--no-such-option"], ["run"], ["--jobs", "none"]])
def test_a_mistake_with_the_script_is_told_in_its_name(mistake):
    done = process("./run_all.sh", *mistake)
    assert done.returncode == 2
    assert "Usage: ./run_all.sh [OPTIONS]\n" in re.sub(" +", " ", done.stderr)
    assert "Try './run_all.sh --help' for help" in done.stderr


def test_the_script_and_the_program_run_the_study(tmp_path):
    usage, listed = process("./run_all.sh", "--help"), process("./run_all.sh", "--list")
    assert (usage.returncode, listed.returncode) == (0, 0)
    assert "Usage: ./run_all.sh [OPTIONS]" in usage.stdout
    assert listed.stdout == process(*CRANE, "run", "--list").stdout
    for command in (["./run_all.sh"], [*CRANE, "run"]):
        wrong = process(*command, "--profile", "minni", "--artifacts", tmp_path)
        assert (wrong.returncode, wrong.stdout) == (2, "")
        assert wrong.stderr.endswith("error: unknown profile 'minni'; did you mean 'mini'?\n")
    assert list(tmp_path.iterdir()) == []


def test_the_name_of_the_script_is_for_no_other_command_and_no_other_process(main, monkeypatch):
    monkeypatch.setenv("CRANE_PROGRAM", "./run_all.sh")
    code, _out, err = main("verify", "--no-such-option")
    assert (code, "run_all.sh" in err) == (2, False)
    assert "CRANE_PROGRAM" not in os.environ


def test_a_run_in_a_container_says_what_its_manifest_lacks(tmp_path, monkeypatch, main):
    monkeypatch.setattr(runner, "run_sections", lambda *_study, **_options: 0)
    asked = ("run", "--profile", "smoke", "--artifacts", tmp_path)
    assert main(*asked) == (0, "", "")
    monkeypatch.setenv("CRANE_IMAGE", "crane")
    assert "".join(main(*asked)[1:]).startswith("note: the manifest will not name ")


def test_listing_names_every_section_and_profile():
    result = call("run", "--list")
    assert result.exit_code == 0
    for section in all_sections():
        assert f"{section.number}  {section.title}  [{section.path.name}]" in result.output
    assert "C5  Units found on the base model carry over to the chat model  [sections 07, 09]" in result.output
    for name in profile_names():
        assert f"profile  {name}" in result.output


def test_a_dry_run_says_what_would_be_done_and_does_nothing(tmp_path, monkeypatch):
    asked = ("run", "--profile", "smoke", "--dry-run", "--artifacts", str(tmp_path))
    result = call(*asked, "--only", "03,04", "--only", "01")
    assert result.exit_code == 0
    assert [line[:2] for line in result.output.splitlines()] == ["01", "03", "04"]
    assert result.output.count("would run") == 3
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setattr(Run, "is_current", lambda self, section, key: section.number == "00")
    lines = call(*asked).output.splitlines()
    assert ["reused" in line for line in lines] == [True] + [False] * (len(lines) - 1)
    assert "reused" not in call(*asked, "--fresh").output


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("run", "--profile", "smok"), "unknown profile 'smok'; did you mean 'smoke'?"),
        (("run", "--only", "9"), "unknown section or claim '9'"),
        (("run", "--only", "03_perplexty"), "did you mean '03_perplexity'?"),
        (("run", "--from", "zz"), "unknown section 'zz'"),
        (("run", "--only", "01", "--from", "07"), "no section is left"),
        (("run", "--profile", "smoke", "-p", "value"), "--parameter 'value': expected name=value"),
        (("run", "--profile", "smoke", "-p", "artifacts=x"), "give it as --artifacts"),
        (("run", "--profile", "smoke", "-p", "=3"), "--parameter '=3': expected name=value"),
        (("run", "--profile", "smoke", "-p", "profil=x"), "unknown parameter 'profil'; did you mean 'profile'?"),
    ],
)
def test_a_mistake_in_the_call_is_one_line_and_exit_code_2(tmp_path, complaint, arguments, words):
    assert words in complaint(*arguments, "--artifacts", tmp_path / "a")
    assert not list(tmp_path.glob("a/*/s*"))
    (tmp_path / "file").write_text("")
    assert "choose another --artifacts" in complaint("run", "--profile", "smoke", "--artifacts", tmp_path / "file")


@pytest.mark.parametrize("arguments", [("run", "--unknown"), ("run", "stray"), ("walk",), ("mask", "only-one")])
def test_unknown_options_and_commands_are_exit_code_2(main, arguments):
    code, _out, err = main(*arguments)
    assert code == 2
    assert "Usage" in err


@pytest.mark.parametrize(("result", "code"), [(0, 0), (1, 1)])
def test_the_exit_code_is_the_runs(tmp_path, monkeypatch, main, result, code):
    given = []

    def run_sections(run, *, fresh, console):
        given.append((run.profile.name, run.folder, [s.number for s in run.sections], run.parameters, run.jobs, fresh))
        return result

    monkeypatch.setattr(runner, "run_sections", run_sections)
    monkeypatch.setenv("CRANE_ARTIFACTS", str(tmp_path / "there"))
    options = ["--from", "07", "--fresh", "--jobs", "3", "-p", "count=3", "-p", "name=[a, b]"]
    assert main("run", "--profile", "smoke", *options)[0] == code
    assert main("run", "--profile", "smoke", *options, "--artifacts", tmp_path)[0] == code
    expected = (["07", "08", "09", "10", "11"], {"count": 3, "name": ["a", "b"]}, 3, True)
    assert given == [("smoke", tmp_path / "there" / "smoke", *expected), ("smoke", tmp_path / "smoke", *expected)]


def test_a_disk_that_is_too_small_is_refused_before_any_work(tmp_path, monkeypatch, main, complaint):
    monkeypatch.setattr(estimate, "disk_free", lambda _folder: 0.01)
    arguments = ("run", "--profile", "smoke", "--artifacts", tmp_path / "new")
    assert complaint(*arguments) == (
        f"error: {tmp_path / 'new' / 'smoke'}: profile smoke needs 50 MB more disk, 10 MB are free; free some space or "
        "choose another --artifacts\n"
    )
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setattr(runner, "run_sections", lambda run, **_options: 0)
    assert main(*arguments, "--skip-preflight")[0] == 0


def test_ctrl_c_is_exit_code_130(tmp_path, monkeypatch, main):
    def run_sections(run, *, fresh, console):
        raise KeyboardInterrupt

    monkeypatch.setattr(runner, "run_sections", run_sections)
    code, _out, err = main("run", "--profile", "smoke", "--artifacts", tmp_path)
    assert (code, err) == (130, "interrupted; start again to go on where it stopped\n")


def test_the_help_names_every_command_and_shows_examples():
    result = call()
    assert "relevance-passes" not in result.output
    for command in ("run", "statistics", "relevance", "masks", "mask"):
        assert f" {command} " in result.output
        assert "Example" in call(command, "--help").output


@pytest.mark.parametrize(
    ("kind", "rank", "seconds"),
    [(CraneError, None, 0.0), (CraneError, "0", 0.0), (CraneError, "3", 3.5), (OtherProcessEnded, "0", 10.0)],
)
def test_a_process_lets_the_one_that_knows_more_speak_first(monkeypatch, kind, rank, seconds):
    monkeypatch.delenv("RANK", raising=False)
    if rank is not None:
        monkeypatch.setenv("RANK", rank)
    naps = []
    monkeypatch.setattr(cli.time, "sleep", naps.append)
    cli._let_others_speak(kind("x"))
    assert naps == [seconds]


# --- statistics and relevance --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    return write_lines(tmp_path_factory.mktemp("texts") / "vi.jsonl", [{"text": text} for text in TEXTS["vi"]])


def test_statistics_of_a_file_of_texts(model, texts, tmp_path):
    output = tmp_path / "deep" / "vi.safetensors"
    options = ("--objective", "log_probability", "--rule", "cplrp", "--max-length", "12", "--documents", "9")
    options = (*options, "--skip-first-tokens", "2")
    result = call("statistics", str(model), str(texts), str(output), *options, "--dtype", "float64", "--device", "cpu")
    assert result.exit_code == 0, result.output
    network, tokenizer = load_model(model, device="cpu", dtype="float64")
    tokens = [tokenizer(text)["input_ids"][:12] for text in TEXTS["vi"][:9]]
    kept = {"max_length": 12, "skip_first_tokens": 2}
    expected = stream_statistics(network, tokens, objective="log_probability", rule="cplrp", **kept)
    seen = Statistics.load(output)
    assert (seen.provenance, seen.corpus) == (expected.provenance, expected.corpus)
    torch.testing.assert_close(seen.moments["down"].m4, expected.moments["down"].m4, rtol=1e-9, atol=0)
    assert seen.labels == {"texts": "vi.jsonl"}
    assert f"{output}: 9 documents, {seen.tokens} tokens in " in result.output
    assert result.output.endswith(" tokens/s)\n")
    assert list(output.parent.iterdir()) == [output]


def test_commands_that_may_take_long_tell_how_far_they_are(model, texts, tmp_path, monkeypatch):
    def slow_export(*given):
        time.sleep(0.5)
        export_masked(*given)

    monkeypatch.setattr(progress, "TELL_SECONDS", 0.002)
    monkeypatch.setattr(interventions, "export_masked", slow_export)
    write_neuron_sets(tmp_path / "sets.json", [neuron_set("vi")])
    out = str(tmp_path / "vi.safetensors")
    said = call("statistics", str(model), str(texts), out, "--device", "cpu").stderr
    assert re.search(rf"^\[[\d:]{{8}}\] Loading {model}, \d+ s so far$", said, re.MULTILINE)
    assert re.search(r"^\[[\d:]{8}\] Relevance \(tokens\) \d+/\d+", said, re.MULTILINE)
    said = call("mask", str(model), str(tmp_path / "sets.json"), str(tmp_path / "out"), "--language", "vi").stderr
    assert re.search(rf"^\[[\d:]{{8}}\] Writing {tmp_path / 'out'}, \d+ s so far$", said, re.MULTILINE)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (("--objective", "gold"), "--objective 'gold': expected one of gold_logit, log_probability"),
        (("--rule", "lrp"), "--rule 'lrp': expected one of attnlrp, cplrp, gradient"),
        (("--dtype", "float16"), "--dtype 'float16': expected one of auto, float32, bfloat16, float64"),
        (("--device", "quantum"), "device 'quantum': not a device"),
    ],
)
def test_mistakes_in_statistics(model, texts, tmp_path, complaint, changes, words):
    assert words in complaint("statistics", model, texts, tmp_path / "x", *changes)
    assert "is a directory; give the file" in complaint("statistics", model, texts, tmp_path)
    assert "no such directory" in complaint("statistics", tmp_path / "absent", texts, tmp_path / "x")
    assert "no such file" in complaint("statistics", model, tmp_path / "absent.txt", tmp_path / "x")
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """A profile and the folder in which its relevance was made by `crane relevance`."""
    folder = tmp_path_factory.mktemp("study")
    profile = write_study(folder, questions=False)
    result = call("relevance", "--profile", str(profile), "--artifacts", str(folder / "one"))
    assert result.exit_code == 0, result.output
    assert "relevance_base: made in " in result.output
    return profile, folder


def test_relevance_made_by_the_command_is_the_studys_and_that_of_two_processes(study):
    profile, folder = study
    said = []
    Study.open(str(profile), artifacts=folder / "one", say=said.append).relevance("base")
    assert [line.split(" (")[0] for line in said] == ["corpus: reused", "relevance_base: reused"]
    assert not (folder / "one" / "small" / "stages" / ".scratch").exists()
    left = folder / "two" / "small" / "stages" / ".relevance_base.0a1b2c3d.partial"  # by a start that was killed
    left.mkdir(parents=True)
    done = process(*SEVERAL, "relevance", "--profile", profile, "--artifacts", folder / "two")
    assert done.returncode == 0, done.stderr
    assert not left.exists()
    assert done.stdout.count("relevance_base: made in ") == 1
    one, two = (folder / name / "small" / "stages" / "relevance_base" for name in ("one", "two"))
    names = sorted(path.name for path in one.iterdir())
    assert names == sorted(path.name for path in two.iterdir())
    assert len(names) == 10  # with the folder of thirds
    for name in [name for name in names if name.endswith(".safetensors")]:
        first, second = Statistics.load(one / name), Statistics.load(two / name)
        assert (first.corpus, first.provenance) == (second.corpus, second.provenance)
        torch.testing.assert_close(first.moments["up"].m2, second.moments["up"].m2, rtol=1e-4, atol=1e-9)


def test_two_processes_evaluate_the_same_masks(study):
    profile, folder = study
    shutil.copytree(folder / "one", folder / "both")  # with the same relevance, to the last bit
    for name, command in (("one", CRANE), ("both", SEVERAL)):
        done = process(*command, "masks", "--profile", profile, "--artifacts", folder / name)
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("control_perplexity: made in ") == 1
        assert not (folder / name / "small" / "stages" / ".scratch").exists()
    for file in ("perplexity_base/documents.parquet", "perplexity_base/rows.csv", "control_perplexity/parts.csv"):
        one, both = (folder / name / "small" / "stages" / file for name in ("one", "both"))
        assert one.read_bytes() == both.read_bytes()


def test_mistakes_in_relevance(study, complaint):
    profile, folder = study
    there = ("relevance", "--artifacts", folder / "one", "--profile")
    assert "unknown profile 'smok'" in complaint(*there, "smok")
    assert "--model 'bas': expected one of base, chat" in complaint(*there, profile, "--model", "bas")
    assert "--model 'chat': expected one of base" in complaint(*there, profile, "--model", "chat")
    with runner.alone(folder / "one" / "small"):
        assert "another run is at work there" in complaint(*there, profile)


# --- mask ----------------------------------------------------------------------------------------------------


def neuron_set(language, *, random_seed=-1, width=24):
    sites = {"neuron": [np.array([1, 5 + random_seed]), np.array([0, 2, 4])]}
    about = {"method": "lape", "language": language, "random_seed": random_seed}
    return NeuronSet(sites=sites, widths={"neuron": width}, **about)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("model"))


def test_a_masked_checkpoint_is_written(model, tmp_path):
    sets = [neuron_set("en"), neuron_set("vi"), neuron_set("vi", random_seed=3)]
    write_neuron_sets(tmp_path / "sets.json", sets)
    output = tmp_path / "out"
    arguments = [str(model), str(tmp_path / "sets.json"), str(output), "--language", "vi", "--draw", "3"]
    result = call("mask", *arguments)
    assert result.exit_code == 0
    assert result.output.strip().endswith(f"{output}: 5 units of 'vi' (lape) zeroed")
    (whole, tokenizer), (zeroed, _tokenizer) = load_model(model, device="cpu"), load_model(output, device="cpu")
    ids = torch.tensor([tokenizer("In town number 3")["input_ids"]])
    with masked(whole, sets[2]):
        assert torch.equal(zeroed(ids).logits, whole(ids).logits)


def test_a_quantised_model_is_refused_by_every_command(tmp_path, complaint):
    folder = write_model(tmp_path / "model")
    config = folder / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"quantization_config": {"quant_method": "fp8"}}))
    write_neuron_sets(tmp_path / "sets.json", [neuron_set("en")])
    (tmp_path / "en.txt").write_text("\n\n".join(TEXTS["en"]))
    for arguments in (
        ("mask", folder, tmp_path / "sets.json", tmp_path / "out", "--language", "en"),
        ("statistics", folder, tmp_path / "en.txt", tmp_path / "out"),
    ):
        said = complaint(*map(str, arguments))
        assert "its weights are quantised (fp8, by quantization_config in config.json)" in said
        assert "FineGrainedFP8Config(dequantize=True)" in said
        assert not (tmp_path / "out").exists()


def test_mistakes_in_masking(model, tmp_path, complaint):
    sets, output = tmp_path / "sets.json", tmp_path / "out"
    write_neuron_sets(sets, [neuron_set("en"), neuron_set("vi", random_seed=2)])
    (tmp_path / "broken.json").write_text(json.dumps({"schema": "crane.neurons/1"}))
    for arguments, words in (
        (
            (model, sets, output, "--language", "de"),
            "has no set for --language de --draw -1; it has --language en --dr",
        ),
        ((tmp_path / "absent", sets, output, "--language", "en"), "no such directory"),
        ((model, tmp_path / "absent.json", output, "--language", "en"), "no such file"),
        ((model, tmp_path / "broken.json", output, "--language", "en"), "has no list 'sets'"),
        ((model, sets, tmp_path, "--language", "en"), "is not empty"),
    ):
        assert words in complaint("mask", *arguments)
    write_neuron_sets(sets, [neuron_set("en", width=99)])
    assert "neuron is 99 wide, in the model 24" in complaint("mask", model, sets, output, "--language", "en")
    assert not output.exists()


def test_seeds_are_planned_and_refused_where_nothing_is_trained(tmp_path, main, complaint):
    asked = ("run", "--profile", "smoke", "--seeds", "2", "--dry-run", "--artifacts", tmp_path / "out")
    code, out, _err = main(*asked)
    assert code == 0
    assert f"Random seed 1, {tmp_path / 'out' / 'smoke-seed1'}:" in out
    assert out.count("would run") == 2 * len(all_sections())
    told = complaint("run", "--profile", write_study(tmp_path), "--seeds", "2")
    assert told.startswith("error: profile small has models of its own")
    code, out, _err = main(
        "run", "--profile", "smoke", "--model-seed", "3", "--dry-run", "--artifacts", tmp_path / "out"
    )
    assert (code, out.count("would run")) == (0, len(all_sections()))
    told = complaint("run", "--profile", "smoke", "--model-seed", "3", "--seeds", "2")
    assert told.startswith("error: --model-seed: runs one of the seeds of --seeds")
