import json
import os
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from crane_lib.errors import CraneError
from crane_lib.interventions import masked
from crane_lib.models import load_model
from crane_lib.neurons import NeuronSet, write_neuron_sets
from crane_lib.parallel import OtherProcessEnded
from crane_lib.relevance import Statistics, stream_statistics
from crane_run import cli, runner
from crane_run import schedule as estimate
from crane_run.runner import Run
from crane_run.sections import all_sections
from crane_study import ROOT
from crane_study.profile import profile_names
from crane_study.study import Study
from tests.small import TEXTS, write_lines, write_model, write_study


def call(*arguments):
    return CliRunner().invoke(cli.app, arguments)


def main(monkeypatch, capsys, *arguments):
    """The entry point as the shell runs it: exit code, standard output, standard error."""
    monkeypatch.setattr(sys, "argv", ["crane", *map(str, arguments)])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    seen = capsys.readouterr()
    return stop.value.code or 0, seen.out, seen.err


def process(*arguments, **environment):
    command = [sys.executable, "-m", "crane_run.cli", *map(str, arguments)]
    return subprocess.run(
        command, capture_output=True, text=True, cwd=ROOT, env=os.environ | environment, timeout=120, check=False
    )


def test_the_program_as_a_process(tmp_path):
    listed = process("run", "--list")
    assert (listed.returncode, listed.stderr) == (0, "")
    wrong = process("run", "--profile", "minni", "--artifacts", tmp_path)
    assert wrong.returncode == 2
    assert wrong.stderr == "error: unknown profile 'minni'; did you mean 'mini'?\n"
    assert wrong.stdout == ""
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("arguments", [("--help",), ("run", "--list"), ("run", "--help")])
def test_what_computes_nothing_does_not_load_what_computes(arguments):
    program = (
        "import sys; from crane_run import cli\n"
        "try: cli.main()\n"
        "finally: print([name for name in ('torch', 'papermill') if name in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True, cwd=ROOT)
    assert (done.returncode, done.stderr) == (0, "[]\n")


def script(*arguments):
    """./run_all.sh in this Python."""
    environment = os.environ | {"CRANE_PYTHON": sys.executable}
    command = ["./run_all.sh", *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment, timeout=120, check=False)


@pytest.mark.parametrize("mistake", [["--no-such-option"], ["run"], ["--jobs", "none"]])
def test_a_mistake_with_the_script_is_told_in_its_name(mistake):
    done = script(*mistake)
    assert done.returncode == 2
    assert "Usage: ./run_all.sh [OPTIONS]\n" in re.sub(" +", " ", done.stderr)
    assert "Try './run_all.sh --help' for help" in done.stderr


def test_the_script_runs_the_study():
    usage, listed, wrong = script("--help"), script("--list"), script("--profile", "minni")
    assert (usage.returncode, listed.returncode, wrong.returncode) == (0, 0, 2)
    assert "Usage: ./run_all.sh [OPTIONS]" in usage.stdout
    assert listed.stdout == process("run", "--list").stdout
    assert wrong.stderr.endswith("error: unknown profile 'minni'; did you mean 'mini'?\n")


def test_the_name_of_the_script_is_for_no_other_command_and_no_other_process(monkeypatch, capsys):
    monkeypatch.setenv("CRANE_PROGRAM", "./run_all.sh")
    monkeypatch.setattr(sys, "argv", ["crane", "verify", "--no-such-option"])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert stop.value.code == 2
    assert "run_all.sh" not in capsys.readouterr().err
    assert "CRANE_PROGRAM" not in os.environ


def test_a_run_in_a_container_says_what_its_manifest_lacks(tmp_path, monkeypatch):
    monkeypatch.setattr(runner, "run_sections", lambda *_study, **_options: 0)
    asked = ("run", "--profile", "smoke", "--artifacts", str(tmp_path))
    assert call(*asked).output == ""
    monkeypatch.setenv("CRANE_IMAGE", "crane")
    result = call(*asked)
    assert result.exit_code == 0
    assert result.output.startswith("note: the manifest will not name ")
    assert result.output.count("\n") == 1


def test_listing_names_every_section_and_profile():
    result = call("run", "--list")
    assert result.exit_code == 0
    for section in all_sections():
        assert f"{section.number}  {section.title}  [{section.path.name}]" in result.output
    assert "C5  Units found on the base model carry over to the chat model  [sections 07, 09]" in result.output
    for name in profile_names():
        assert f"profile  {name}" in result.output


def test_a_dry_run_says_what_would_be_done_and_does_nothing(tmp_path):
    result = call(
        "run", "--profile", "smoke", "--dry-run", "--only", "03,04", "--only", "01", "--artifacts", str(tmp_path)
    )
    assert result.exit_code == 0
    lines = result.output.splitlines()
    assert [line[:2] for line in lines] == ["01", "03", "04"]
    assert all("would run" in line for line in lines)
    assert list(tmp_path.iterdir()) == []


def test_a_dry_run_knows_what_would_be_reused(tmp_path, monkeypatch):
    monkeypatch.setattr(Run, "is_current", lambda self, section, key: section.number == "00")
    asked = ("run", "--profile", "smoke", "--dry-run", "--artifacts", str(tmp_path))
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
def test_a_mistake_in_the_call_is_one_line_and_exit_code_2(tmp_path, monkeypatch, capsys, arguments, words):
    code, out, err = main(monkeypatch, capsys, *arguments, *(["--artifacts", tmp_path / "a"]))
    assert code == 2
    assert out == ""
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert words in err
    assert not list(tmp_path.glob("a/*/s*"))


@pytest.mark.parametrize("arguments", [("run", "--unknown"), ("run", "stray"), ("walk",), ("mask", "only-one")])
def test_unknown_options_and_commands_are_exit_code_2(monkeypatch, capsys, arguments):
    code, _out, err = main(monkeypatch, capsys, *arguments)
    assert code == 2
    assert "Usage" in err


def test_an_artifacts_folder_that_is_a_file(tmp_path, monkeypatch, capsys):
    (tmp_path / "file").write_text("")
    code, _out, err = main(monkeypatch, capsys, "run", "--profile", "smoke", "--artifacts", tmp_path / "file")
    assert (code, err.count("\n")) == (2, 1)
    assert "choose another --artifacts" in err


@pytest.mark.parametrize(("result", "code"), [(0, 0), (1, 1)])
def test_the_exit_code_is_the_runs(tmp_path, monkeypatch, capsys, result, code):
    given = []

    def run_sections(run, *, fresh, console):
        given.append((run.profile.name, run.folder, [s.number for s in run.sections], run.parameters, run.jobs, fresh))
        return result

    monkeypatch.setattr(runner, "run_sections", run_sections)
    arguments = ["--artifacts", tmp_path, "--from", "07", "--fresh", "--jobs", "3"]
    arguments += ["-p", "count=3", "-p", "name=[a, b]"]
    assert main(monkeypatch, capsys, "run", "--profile", "smoke", *arguments)[0] == code
    assert given == [("smoke", tmp_path / "smoke", ["07", "08", "09", "10"], {"count": 3, "name": ["a", "b"]}, 3, True)]


def test_a_disk_that_is_too_small_is_refused_before_any_work(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(estimate, "disk_free", lambda _folder: 0.01)
    arguments = ("run", "--profile", "smoke", "--artifacts", tmp_path / "new")
    code, out, err = main(monkeypatch, capsys, *arguments)
    assert (code, out) == (2, "")
    assert err == (
        f"error: {tmp_path / 'new' / 'smoke'}: profile smoke needs 50 MB more disk, 10 MB are free; free some space or "
        "choose another --artifacts\n"
    )
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setattr(runner, "run_sections", lambda run, **_options: 0)
    assert main(monkeypatch, capsys, *arguments, "--skip-preflight")[0] == 0


def test_ctrl_c_is_exit_code_130(tmp_path, monkeypatch, capsys):
    def run_sections(run, *, fresh, console):
        raise KeyboardInterrupt

    monkeypatch.setattr(runner, "run_sections", run_sections)
    code, _out, err = main(monkeypatch, capsys, "run", "--profile", "smoke", "--artifacts", tmp_path)
    assert code == 130
    assert err == "interrupted; start again to go on where it stopped\n"


def test_artifacts_come_from_the_environment_where_not_given(tmp_path, monkeypatch, capsys):
    folders = []
    monkeypatch.setattr(runner, "run_sections", lambda run, **_options: folders.append(run.folder) or 0)
    monkeypatch.setenv("CRANE_ARTIFACTS", str(tmp_path / "there"))
    main(monkeypatch, capsys, "run", "--profile", "smoke")
    main(monkeypatch, capsys, "run", "--profile", "smoke", "--artifacts", tmp_path / "here")
    assert folders == [tmp_path / "there" / "smoke", tmp_path / "here" / "smoke"]


def test_help_without_arguments():
    result = call()
    for command in ("run", "statistics", "relevance", "masks", "mask"):
        assert f" {command} " in result.output
    assert "relevance-passes" not in result.output


@pytest.mark.parametrize("command", ["run", "statistics", "relevance", "masks", "mask"])
def test_every_command_shows_an_example(command):
    assert "Example" in call(command, "--help").output


@pytest.mark.parametrize(
    ("error", "rank", "seconds"),
    [
        (CraneError("x"), None, 0.0),
        (CraneError("x"), "0", 0.0),
        (CraneError("x"), "3", 3.5),
        (OtherProcessEnded("x"), "0", 10.0),
    ],
)
def test_a_process_lets_the_one_that_knows_more_speak_first(monkeypatch, error, rank, seconds):
    monkeypatch.delenv("RANK", raising=False)
    if rank is not None:
        monkeypatch.setenv("RANK", rank)
    naps = []
    monkeypatch.setattr(cli.time, "sleep", naps.append)
    cli._let_others_speak(error)
    assert naps == [seconds]


# --- statistics and relevance --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    return write_lines(tmp_path_factory.mktemp("texts") / "vi.jsonl", [{"text": text} for text in TEXTS["vi"]])


def test_statistics_of_a_file_of_texts(model, texts, tmp_path):
    output = tmp_path / "deep" / "vi.safetensors"
    options = ("--objective", "log_probability", "--rule", "cplrp", "--max-length", "12", "--documents", "9")
    result = call("statistics", str(model), str(texts), str(output), *options, "--dtype", "float64", "--device", "cpu")
    assert result.exit_code == 0, result.output
    network, tokenizer = load_model(model, device="cpu", dtype="float64")
    tokens = [tokenizer(text)["input_ids"][:12] for text in TEXTS["vi"][:9]]
    expected = stream_statistics(network, tokens, objective="log_probability", rule="cplrp", max_length=12)
    seen = Statistics.load(output)
    assert (seen.provenance, seen.corpus) == (expected.provenance, expected.corpus)
    torch.testing.assert_close(seen.moments["down"].m4, expected.moments["down"].m4, rtol=1e-9, atol=0)
    assert seen.labels == {"texts": "vi.jsonl"}
    assert f"{output}: 9 documents, {seen.tokens} tokens in " in result.output
    assert result.output.endswith(" tokens/s)\n")
    assert [path.name for path in output.parent.iterdir()] == ["vi.safetensors"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (("--objective", "gold"), "--objective 'gold': expected one of gold_logit, log_probability"),
        (("--rule", "lrp"), "--rule 'lrp': expected one of attnlrp, cplrp, gradient"),
        (("--dtype", "float16"), "--dtype 'float16': expected one of auto, float32, bfloat16, float64"),
        (("--device", "quantum"), "device 'quantum': not a device"),
    ],
)
def test_mistakes_in_options_of_statistics(model, texts, tmp_path, monkeypatch, capsys, changes, words):
    code, _out, err = main(monkeypatch, capsys, "statistics", model, texts, tmp_path / "x", *changes)
    assert (code, err.count("\n")) == (2, 1)
    assert words in err
    assert list(tmp_path.iterdir()) == []


def test_mistakes_in_files_of_statistics(model, texts, tmp_path, monkeypatch, capsys):
    def complaint(*arguments):
        code, _out, err = main(monkeypatch, capsys, "statistics", *arguments, "--device", "cpu")
        assert (code, err.count("\n")) == (2, 1)
        return err

    assert f"{tmp_path}: is a directory; give the file" in complaint(model, texts, tmp_path)
    assert "no such directory" in complaint(tmp_path / "absent", texts, tmp_path / "x")
    assert "no such file" in complaint(model, tmp_path / "absent.txt", tmp_path / "x")


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """A profile and the folder in which its relevance was made by `crane relevance`."""
    folder = tmp_path_factory.mktemp("study")
    profile = write_study(folder, questions=False)
    result = call("relevance", "--profile", str(profile), "--artifacts", str(folder / "one"))
    assert result.exit_code == 0, result.output
    assert "relevance_base: made in " in result.output
    return profile, folder


def test_relevance_made_by_the_command_is_used_by_the_study(study):
    profile, folder = study
    said = []
    Study.open(str(profile), artifacts=folder / "one", say=said.append).relevance("base")
    assert [line.split(" (")[0] for line in said] == ["corpus: reused", "relevance_base: reused"]
    assert not (folder / "one" / "small" / "stages" / ".scratch").exists()


def test_two_processes_make_the_same_relevance(study):
    profile, folder = study
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command += ["-m", "crane_run.cli", "relevance", "--profile", str(profile), "--artifacts", str(folder / "two")]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("relevance_base: made in ") == 1
    one, two = (folder / name / "small" / "stages" / "relevance_base" for name in ("one", "two"))
    names = sorted(path.name for path in one.iterdir())
    assert names == sorted(path.name for path in two.iterdir())
    assert len(names) == 8
    for name in names:
        if name.endswith(".safetensors"):
            first, second = Statistics.load(one / name), Statistics.load(two / name)
            assert (first.corpus, first.provenance) == (second.corpus, second.provenance)
            torch.testing.assert_close(first.moments["up"].m2, second.moments["up"].m2, rtol=1e-4, atol=1e-9)


def test_two_processes_evaluate_the_same_masks(study):
    profile, folder = study
    shutil.copytree(folder / "one", folder / "both")  # with the same relevance, to the last bit
    command = ["-m", "crane_run.cli", "masks", "--profile", str(profile), "--artifacts"]
    several = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    for name, launcher in (("one", []), ("both", several)):
        done = subprocess.run(
            [sys.executable, *launcher, *command, str(folder / name)],
            capture_output=True,
            text=True,
            cwd=ROOT,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            timeout=300,
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("control_perplexity: made in ") == 1
        assert not (folder / name / "small" / "stages" / ".scratch").exists()
    for file in ("perplexity_base/documents.parquet", "perplexity_base/rows.csv", "control_perplexity/parts.csv"):
        one, both = (folder / name / "small" / "stages" / file for name in ("one", "both"))
        assert one.read_bytes() == both.read_bytes()


def test_mistakes_in_relevance(study, tmp_path, monkeypatch, capsys):
    profile, folder = study

    def complaint(*arguments):
        code, _out, err = main(monkeypatch, capsys, "relevance", *arguments)
        assert (code, err.count("\n")) == (2, 1)
        return err

    there = ("--artifacts", folder / "one")
    assert "unknown profile 'smok'" in complaint("--profile", "smok", *there)
    assert "--model 'bas': expected one of base, chat" in complaint("--profile", profile, *there, "--model", "bas")
    assert "--model 'chat': expected one of base" in complaint("--profile", profile, *there, "--model", "chat")
    with runner.alone(folder / "one" / "small"):
        assert "another run is at work there" in complaint("--profile", profile, *there)


# --- mask ----------------------------------------------------------------------------------------------------


def neuron_set(language, *, random_seed=-1, width=24):
    sites = {"neuron": [np.array([1, 5 + random_seed]), np.array([0, 2, 4])]}
    return NeuronSet(
        sites=sites, widths={"neuron": width}, model="m", method="lape", language=language, random_seed=random_seed
    )


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


def test_mistakes_in_masking(model, tmp_path, monkeypatch, capsys):
    sets = tmp_path / "sets.json"
    write_neuron_sets(sets, [neuron_set("en"), neuron_set("vi", random_seed=2)])

    def complaint(*arguments):
        code, _out, err = main(monkeypatch, capsys, "mask", *arguments)
        assert (code, err.count("\n")) == (2, 1)
        return err

    output = tmp_path / "out"
    assert (
        "has no set for --language de --draw -1; it has --language en --draw -1; --language vi --draw 2"
        in complaint(model, sets, output, "--language", "de")
    )
    assert "no such directory" in complaint(tmp_path / "absent", sets, output, "--language", "en")
    assert "no such file" in complaint(model, tmp_path / "absent.json", output, "--language", "en")
    (tmp_path / "broken.json").write_text(json.dumps({"schema": "crane.neurons/1"}))
    assert "has no list 'sets'" in complaint(model, tmp_path / "broken.json", output, "--language", "en")
    assert "is not empty" in complaint(model, sets, tmp_path, "--language", "en")
    write_neuron_sets(sets, [neuron_set("en", width=99)])
    assert "neuron is 99 wide, in the model 24" in complaint(model, sets, output, "--language", "en")
    assert not output.exists()


def test_seeds_are_planned_and_refused_where_nothing_is_trained(tmp_path, monkeypatch, capsys):
    asked = ("run", "--profile", "smoke", "--seeds", "2", "--dry-run", "--artifacts", tmp_path / "out")
    code, out, _err = main(monkeypatch, capsys, *asked)
    assert code == 0
    assert f"Random seed 1, {tmp_path / 'out' / 'smoke-seed1'}:" in out
    assert out.count("would run") == 2 * len(all_sections())
    profile = write_study(tmp_path)
    capsys.readouterr()  # what saving a model says
    code, _out, err = main(monkeypatch, capsys, "run", "--profile", profile, "--seeds", "2")
    assert code == 2
    assert err.startswith("error: --seeds: profile small has models of its own")
    assert err.count("\n") == 1
