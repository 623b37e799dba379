"""Pack source, locks and the outputs of finished runs into one archive for a repository such as Zenodo.

    python tools/make_archive.py --run artifacts/mini --run artifacts/smoke crane-0.1.0.tar.gz

The archive holds the source as committed, of each run its report, tables, figures, executed notebooks, claims and
manifest (not its stages, unless --with-stages), a README, CITATION.cff, the metadata for Zenodo, the results as an
RO-Crate, the locked packages as CycloneDX, and SHA256SUMS. The same commit and runs give the same bytes. The archive is
read back and compared with SHA256SUMS.
"""

from __future__ import annotations

import hashlib
import io
import json
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # so that it runs by its path

from crane_lib.errors import CraneError  # noqa: E402
from crane_lib.files import atomic  # noqa: E402
from crane_run.crate import crate_of, metadata  # noqa: E402
from crane_run.manifest import NAME, output_files  # noqa: E402
from crane_run.references import NO_REFERENCE  # noqa: E402
from crane_run.verify import verify  # noqa: E402
from crane_study.progress import SOON, progress  # noqa: E402
from tools.sbom import sbom  # noqa: E402

SUMS = "SHA256SUMS"
MAKES_RESULTS = ("crane_lib", "crane_study", "crane_run", "notebooks", "configs")
README = """# CRANE artifact: archive

- `source/`: the repository at commit {commit}, with the lock files in `source/requirements/`; start with
  `source/README.md`.{dirty}
{runs}- `ro-crate-metadata.json`: the results as an RO-Crate: authors, licence, runs, verdicts, hashes.
- `sbom.cdx.json`: every locked package with its hashes, as CycloneDX.
- `SHA256SUMS`: SHA-256 of every file; check it with `sha256sum -c SHA256SUMS`.
- `CITATION.cff`: how to cite.

```bash
cd source && ./run_all.sh --profile smoke     # about four minutes on two cores; mini is the default
.venv/bin/crane verify ../results/{example}    # the packed results and their manifest
```

Stages (weights, statistics, result rows of every mask) are {stages}
"""
RUN = """- `results/{profile}/`: the finished run of profile {profile}, made at commit {commit}{dirty} on {processor};
  start with `report.md`. {since}
"""


def git(*arguments: str) -> bytes:
    """Run git in the repository and return its output; a failure is a CraneError."""
    try:
        done = subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, check=False)
    except OSError as error:
        raise CraneError(f"git cannot be started ({error.strerror}); an archive is made of a git repository") from error
    if done.returncode:
        raise CraneError(f"git {arguments[0]}: {done.stderr.decode(errors='replace').strip()}")
    return done.stdout


def run_files(folder: Path, *, with_stages: bool) -> list[Path]:
    """List the files of a run to pack, or raise CraneError if the run is unfinished or differs from its manifest."""
    finding = verify(folder, against=NO_REFERENCE)
    if finding.manifest is None or finding.problems:
        raise CraneError(f"{folder}: {finding.problems[0]}; crane verify says more; run the study again")
    if finding.unfinished:
        raise CraneError(f"{folder}: is not finished: {finding.unfinished}")
    stages = sorted(path for path in (folder / "stages").rglob("*") if path.is_file()) if with_stages else []
    return [
        folder / NAME,
        *output_files(folder),
        *(path for path in stages if "/." not in str(path.relative_to(folder))),
    ]


def described(manifest: Mapping[str, Any]) -> str:
    """Describe a run in the archive's README, and what changed in the source since its commit."""
    commit = str(manifest["commit"])
    try:
        changed = len(git("diff", "--name-only", commit, "HEAD", "--", *MAKES_RESULTS).splitlines())
        since = f"Since then {changed} files of packages, notebooks or configuration changed in `source/`."
    except CraneError:
        since = "Its commit is not in this repository."
    dirty = " with uncommitted changes" if manifest["uncommitted_changes"] else ""
    place = {"profile": manifest["profile"]["name"], "processor": manifest["machine"]["processor"]}
    return RUN.format(commit=commit, dirty=dirty, since=since, **place)


def hashes(archive: bytes) -> dict[str, str]:
    """Return {name without its first folder: SHA-256} of the files of an archive."""
    with tarfile.open(fileobj=io.BytesIO(archive)) as packed:
        files = {member.name.partition("/")[2]: packed.extractfile(member) for member in packed if member.isfile()}
        return {name: hashlib.sha256(file.read()).hexdigest() for name, file in sorted(files.items()) if file}


def make_archive(output: Path, runs: list[Path], *, with_stages: bool = False, allow_dirty: bool = False) -> int:
    """Write and check the archive; returns its number of files."""
    dirty = bool(git("status", "--porcelain").strip())
    if dirty and not allow_dirty:
        raise CraneError("the working tree has changes that are not committed; commit them, or give --allow-dirty")
    top = output.name.removesuffix(".tar.gz")
    command = ["-c", "tar.umask=0022", "archive", "--format=tar.gz"]
    texts: dict[str, str] = {}  # of the README, by profile
    places: dict[str, Path] = {}
    for folder in runs:
        packed = run_files(folder, with_stages=with_stages)
        manifest = json.loads((folder / NAME).read_text(encoding="utf-8"))
        profile = manifest["profile"]["name"]
        if profile in texts:
            raise CraneError(f"{folder}: a run of profile {profile} is packed already")
        for path in packed:
            place = Path(top, "results", profile, path.relative_to(folder).parent)
            command += [f"--prefix={place}/", f"--add-file={path.resolve()}"]
        texts[profile], places[f"results/{profile}"] = described(manifest), folder
    readme = README.format(
        commit=git("rev-parse", "HEAD").decode().strip(),
        dirty="\n  The working tree had changes that were not committed; they are not in here." if dirty else "",
        runs="".join(text for _, text in sorted(texts.items())),
        example=min(texts, default="mini"),
        stages="packed, too." if with_stages else "not packed; `run_all.sh` makes them.",
    )
    with tempfile.TemporaryDirectory() as temporary:
        own = {name: git("show", f"HEAD:{name}") for name in ("CITATION.cff", ".zenodo.json")}
        own |= {"ARCHIVE-README.md": readme.encode(), "sbom.cdx.json": sbom(ROOT)}
        if runs:
            own["ro-crate-metadata.json"] = metadata(crate_of(places))
        for name, content in own.items():
            Path(temporary, name).write_bytes(content)
            command += [f"--prefix={top}/", f"--add-file={temporary}/{name}"]
        source = [f"--prefix={top}/source/", "HEAD"]
        sums = hashes(git(*command, *source))
        listing = "".join(f"{value}  {name}\n" for name, value in sums.items())
        Path(temporary, SUMS).write_text(listing, encoding="utf-8")
        with atomic(output) as partial:
            partial.write_bytes(git(*command, f"--prefix={top}/", f"--add-file={temporary}/{SUMS}", *source))
    if hashes(output.read_bytes()) != {**sums, SUMS: hashlib.sha256(listing.encode()).hexdigest()}:
        raise CraneError(f"{output}: differs from {SUMS}; make the archive again")
    return len(sums)


def main(
    output: Annotated[Path, typer.Argument(help="File to write, such as crane-0.1.0.tar.gz.")],
    run: Annotated[list[Path], typer.Option(help="Folder of a finished run to pack.")] = [],  # noqa: B006
    with_stages: Annotated[bool, typer.Option("--with-stages", help="Pack the stages of the runs, too.")] = False,
    allow_dirty: Annotated[bool, typer.Option("--allow-dirty", help="Pack the last commit despite changes.")] = False,
) -> None:
    """Pack source, locks and the outputs of finished runs into one archive."""
    if not output.name.endswith(".tar.gz"):
        raise typer.BadParameter("give the file to write, with the ending .tar.gz")
    try:
        with progress(f"Packing {output}", delay=SOON):
            count = make_archive(output, run, with_stages=with_stages, allow_dirty=allow_dirty)
    except CraneError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        raise typer.Exit(2) from error
    print(f"{output}: {count} files, {output.stat().st_size / 1e6:.1f} MB, read back and checked")
    print(f"sha256 {hashlib.sha256(output.read_bytes()).hexdigest()}")


if __name__ == "__main__":
    typer.run(main)
