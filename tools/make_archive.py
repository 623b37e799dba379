"""Pack source, locks and the outputs of finished runs into one archive for a repository such as Zenodo.

    python tools/make_archive.py --run artifacts/mini --run artifacts/smoke crane-0.1.0.tar.gz

The archive holds the source as committed (``git archive HEAD``), of each run its report, tables, figures, executed
notebooks, claims and manifest (not its stages, unless --with-stages), a README, CITATION.cff, the metadata for Zenodo
and SHA256SUMS. Made twice of the same commit and runs it has the same bytes. It is read back and checked after writing.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import io
import json
import subprocess
import sys
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # so that it runs by its path

from crane_lib.errors import CraneError  # noqa: E402
from crane_lib.files import atomic, write_text  # noqa: E402
from crane_run.manifest import NAME, output_files  # noqa: E402
from crane_run.verify import NO_REFERENCE, verify  # noqa: E402

SUMS = "SHA256SUMS"
ZENODO = ".zenodo.json"
_STAGES = "stages"
PACKAGES = ("crane_lib", "crane_study", "crane_run")
Files = dict[str, tuple[bytes, bool]]  # name in the archive -> content, whether it can be executed


def git(*arguments: str) -> bytes:
    """Output of a git command in the repository.

    Raises
    ------
    CraneError : git is not there, or this is no repository
    """
    try:
        return subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, check=True).stdout
    except OSError as error:
        raise CraneError(f"git cannot be started ({error.strerror}); an archive is made of a git repository") from error
    except subprocess.CalledProcessError as error:
        reason = error.stderr.decode(errors="replace").strip().splitlines()
        raise CraneError(f"git {arguments[0]}: {reason[-1] if reason else error.returncode}") from error


def source_files() -> Files:
    """Every file of the last commit, below ``source/``."""
    files: Files = {}
    with tarfile.open(fileobj=io.BytesIO(git("archive", "--format=tar", "HEAD"))) as packed:
        for member in packed:
            content = packed.extractfile(member) if member.isfile() else None
            if content is not None:
                files[f"source/{member.name}"] = (content.read(), bool(member.mode & 0o100))
            elif not member.isdir():
                raise CraneError(f"{member.name}: is a link, which an archive here does not hold; replace it by a file")
    return files


def run_files(folder: Path, *, with_stages: bool) -> Files:
    """Outputs of a finished run, below ``results/<profile>/``.

    Raises
    ------
    CraneError : the run is not what its manifest says, or is not finished
    """
    finding = verify(folder, against=NO_REFERENCE)
    if finding.manifest is None or finding.problems:
        raise CraneError(f"{folder}: {finding.problems[0]}; crane verify says more; run the study again")
    if finding.unfinished:
        raise CraneError(f"{folder}: is not finished: {finding.unfinished}")
    paths = [folder / NAME, *output_files(folder)]
    if with_stages:
        stages = folder / _STAGES
        inside = (path for path in sorted(stages.rglob("*")) if path.is_file())
        paths += [path for path in inside if not any(part.startswith(".") for part in path.relative_to(stages).parts)]
    profile = str(finding.manifest.profile["name"])
    return {f"results/{profile}/{path.relative_to(folder)}": (path.read_bytes(), False) for path in paths}


def zenodo_metadata(citation: Mapping[str, Any]) -> dict[str, Any]:
    """What Zenodo asks for, from CITATION.cff."""
    paper = citation.get("preferred-citation", {})
    names = [
        ", ".join(filter(None, [author.get("family-names"), author.get("given-names")])) or author["name"]
        for author in citation["authors"]
    ]
    identifiers = [item["value"] for item in paper.get("identifiers", []) if str(item["value"]).startswith("arXiv:")]
    return {
        "title": citation["title"],
        "upload_type": "software",
        "description": (
            f"Source, locked environment and reference outputs of the artifact that accompanies: {paper['title']}."
        ),
        "version": citation["version"],
        "license": str(citation["license"]).lower(),
        "creators": [{"name": name} for name in names],
        "keywords": ["multilingual language models", "interpretability", "layer-wise relevance propagation"],
        "related_identifiers": [
            {"identifier": identifier, "relation": "isSupplementTo", "resource_type": "publication-preprint"}
            for identifier in identifiers
        ],
    }


def zenodo_text() -> str:
    """Content of .zenodo.json."""
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    return json.dumps(zenodo_metadata(citation), ensure_ascii=False, indent=2) + "\n"


def readme(commit: str, runs: Mapping[str, Mapping[str, Any]], *, dirty: bool, with_stages: bool) -> str:
    """What is in the archive and how to use it."""
    lines = [
        "# CRANE artifact: archive",
        "",
        f"- `source/`: the repository at commit {commit}, with the lock files in `source/requirements/`; start with",
        "  `source/README.md`.",
    ]
    if dirty:
        lines.append("  The working tree had changes that were not committed; they are not in here.")
    for profile, manifest in sorted(runs.items()):
        lines.append(
            f"- `results/{profile}/`: the finished run of profile {profile}, made at commit {manifest['commit']}"
            f"{' with uncommitted changes' if manifest['uncommitted_changes'] else ''} on "
            f"{manifest['machine']['processor']}; start with `report.md`. {_since(manifest['commit'])}"
        )
    example = next(iter(sorted(runs)), "mini")
    lines += [
        f"- `{SUMS}`: SHA-256 of every file; check it with `sha256sum -c {SUMS}`.",
        "- `CITATION.cff`: how to cite.",
        "",
        "```bash",
        "cd source && ./run_all.sh --profile smoke     # about four minutes on two cores; mini is the default",
        f".venv/bin/python -m crane_run.cli verify ../results/{example}    # the packed results and their manifest",
        "```",
        "",
        "Stages (weights, statistics, result rows of every mask) are "
        + ("packed, too." if with_stages else "not packed; `run_all.sh` makes them."),
    ]
    return "\n".join(lines) + "\n"


def _since(commit: str | None) -> str:
    """Whether what makes results changed between a run's commit and the packed one."""
    if commit is None:
        return "Its commit is unknown."
    try:
        changed = git("diff", "--name-only", commit, "HEAD", "--", *PACKAGES, "notebooks", "configs").decode().split()
    except CraneError:
        return "Its commit is not in this repository."
    if not changed:
        return "Library, notebooks and configuration are the same in `source/`."
    return f"Since then {len(changed)} files of library, notebooks or configuration changed in `source/`."


def write_archive(output: Path, files: Files, *, top: str, timestamp: int) -> None:
    """Write a .tar.gz whose bytes depend on nothing but its content: sorted names, one time, no owners."""
    sums = "".join(f"{hashlib.sha256(content).hexdigest()}  {name}\n" for name, (content, _) in sorted(files.items()))
    packed = {**files, SUMS: (sums.encode(), False)}
    with (
        atomic(output) as temporary,
        temporary.open("wb") as raw,
        gzip.GzipFile(filename="", mode="wb", fileobj=raw, mtime=timestamp) as zipped,
        tarfile.open(fileobj=zipped, mode="w", format=tarfile.PAX_FORMAT) as archive,
    ):
        for name, (content, executable) in sorted(packed.items()):
            member = tarfile.TarInfo(f"{top}/{name}")
            member.size, member.mtime = len(content), timestamp
            member.mode = 0o755 if executable else 0o644
            archive.addfile(member, io.BytesIO(content))


def check_archive(path: Path) -> int:
    """Read an archive back and hold every file against its SHA256SUMS; returns the number of files.

    Raises
    ------
    CraneError : a file is missing, not listed, or has another hash
    """
    found, listed = {}, {}
    with tarfile.open(path, mode="r:gz") as archive:
        for member in archive:
            content = archive.extractfile(member)
            if content is None:
                raise CraneError(f"{path}: {member.name}: is no plain file")
            data, name = content.read(), member.name.partition("/")[2]
            if name == SUMS:
                listed = {line[66:]: line[:64] for line in data.decode().splitlines()}
            else:
                found[name] = hashlib.sha256(data).hexdigest()
    for name in sorted({*found, *listed}):
        if found.get(name) != listed.get(name):
            raise CraneError(f"{path}: {name}: is not as {SUMS} says; make the archive again")
    return len(found)


def make_archive(output: Path, runs: list[Path], *, with_stages: bool = False, allow_dirty: bool = False) -> int:
    """Write and check the archive; returns its number of files.

    Raises
    ------
    CraneError : uncommitted changes without `allow_dirty`, or a run that is not finished or not as its manifest says
    """
    dirty = bool(git("status", "--porcelain").strip())
    if dirty and not allow_dirty:
        raise CraneError("the working tree has changes that are not committed; commit them, or give --allow-dirty")
    files, manifests = source_files(), {}
    for folder in runs:
        found = run_files(folder, with_stages=with_stages)
        manifest = json.loads((folder / NAME).read_text(encoding="utf-8"))
        if manifest["profile"]["name"] in manifests:
            raise CraneError(f"{folder}: a run of profile {manifest['profile']['name']} is packed already")
        manifests[manifest["profile"]["name"]] = manifest
        files |= found
    commit, seconds = git("log", "-1", "--format=%H %ct").decode().split()
    files["CITATION.cff"] = files["source/CITATION.cff"]
    files[ZENODO] = (zenodo_text().encode(), False)
    files["ARCHIVE-README.md"] = (readme(commit, manifests, dirty=dirty, with_stages=with_stages).encode(), False)
    write_archive(output, files, top=output.name.removesuffix(".tar.gz"), timestamp=int(seconds))
    return check_archive(output)


def main(arguments: list[str] | None = None) -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("output", nargs="?", type=Path, help="file to write, such as crane-0.1.0.tar.gz")
    parser.add_argument("--run", action="append", type=Path, default=[], help="folder of a finished run to pack")
    parser.add_argument("--with-stages", action="store_true", help="pack the stages of the runs, too (weights)")
    parser.add_argument("--allow-dirty", action="store_true", help="pack the last commit despite uncommitted changes")
    parser.add_argument("--zenodo", action="store_true", help="only write .zenodo.json anew from CITATION.cff")
    given = parser.parse_args(arguments)
    if given.zenodo:
        write_text(ROOT / ZENODO, zenodo_text())
        print(ROOT / ZENODO)
        return 0
    if given.output is None or not given.output.name.endswith(".tar.gz"):
        parser.error("give the file to write, with the ending .tar.gz")
    try:
        count = make_archive(given.output, given.run, with_stages=given.with_stages, allow_dirty=given.allow_dirty)
    except CraneError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    size = given.output.stat().st_size / 1e6
    print(f"{given.output}: {count} files, {size:.1f} MB, read back and checked")
    print(f"sha256 {hashlib.sha256(given.output.read_bytes()).hexdigest()}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
