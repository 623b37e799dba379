"""A finished run as an RO-Crate: files, hashes, verdicts, and the process that made them."""

from __future__ import annotations

import json
import mimetypes
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from rocrate.model.contextentity import ContextEntity
from rocrate.rocrate import ROCrate

from crane_lib.errors import CraneError
from crane_lib.files import sha256
from crane_run.manifest import NAME, Manifest, read_manifest
from crane_run.references import NO_REFERENCE
from crane_run.verify import verify
from crane_study import ROOT
from crane_study.paper.verdicts import read_claims
from crane_study.publish import CAPTIONS, read_object

_VERSION = "1.1"  # of RO-Crate, on which the profile of a process is based
_PROFILES = {"https://w3id.org/ro/wfrun/process/0.5": ("Process Run Crate", "0.5")}
_TERMS = "https://w3id.org/ro/terms/workflow-run/context"  # has sha256
_KINDS = {"tables": "Table", "figures": "Figure", "notebooks": "Executed notebook", "sections": "Record of a section"}


def crate_of(runs: Mapping[str, Path]) -> ROCrate:
    """Describe finished runs; the key of each is the folder in the crate where its files lie.

    Authors, licence and paper are those of CITATION.cff. Of the machine there is what the manifest has: processor,
    cores, memory and GPUs, no name of a host or a user.

    Raises
    ------
    CraneError : a run that is not finished, or differs from its manifest
    """
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    crate = ROCrate(version=_VERSION)
    crate.metadata.extra_contexts.append(_TERMS)
    crate.name, crate.description = citation["title"], f"Finished runs of {citation['title']}, with their manifests."
    crate.license = _entity(
        crate, f"https://spdx.org/licenses/{citation['license']}", "CreativeWork", name=f"{citation['license']} License"
    )
    crate.creator = crate.publisher = [
        _entity(crate, f"#author-{number}", "Organization", name=author["name"])
        for number, author in enumerate(citation["authors"])
    ]
    crate.root_dataset["author"] = crate.creator
    crate.root_dataset["citation"] = _paper(crate, citation["preferred-citation"])
    crate.root_dataset["conformsTo"] = [
        _entity(crate, address, "CreativeWork", name=name, version=version)
        for address, (name, version) in _PROFILES.items()
    ]
    written = [_add_run(crate, place, folder, citation) for place, folder in sorted(runs.items())]
    crate.datePublished = max(written)
    return crate


def write_crate(run: Path, output: Path) -> int:
    """Write a crate of one run into a new folder, with copies of its files; returns their number."""
    if output.exists():
        raise CraneError(f"{output}: is there already; name a new folder")
    crate = crate_of({f"results/{read_manifest(run).profile['name']}": run})
    try:
        crate.write(output)
    except BaseException:
        shutil.rmtree(output, ignore_errors=True)
        raise
    return len([entity for entity in crate.data_entities if entity.type == "File"])


def metadata(crate: ROCrate) -> bytes:
    """Content of ro-crate-metadata.json, for a crate that is packed otherwise."""
    return json.dumps(crate.metadata.generate(), indent=1, sort_keys=True, ensure_ascii=False).encode()


def _entity(crate: ROCrate, identifier: str, kind: str, /, **properties: Any) -> ContextEntity:
    return crate.add(ContextEntity(crate, identifier, properties={"@type": kind, **properties}))


def _paper(crate: ROCrate, paper: Mapping[str, Any]) -> ContextEntity:
    authors = [
        _entity(
            crate,
            f"#{one['family-names']}-{one['given-names']}".replace(" ", "-"),
            "Person",
            name=f"{one['given-names']} {one['family-names']}",
        )
        for one in paper["authors"]
    ]
    found = _entity(crate, paper["url"], "ScholarlyArticle", name=paper["title"], datePublished=str(paper["year"]))
    found["author"] = authors
    return found


def _add_run(crate: ROCrate, place: str, folder: Path, citation: Mapping[str, Any]) -> str:
    """Add a run's files, verdicts and process; returns when its manifest was written."""
    finding = verify(folder, against=NO_REFERENCE)
    manifest = finding.manifest
    if manifest is None or finding.problems:
        raise CraneError(f"{folder}: {finding.problems[0]}; crane verify says more; run the study again")
    if finding.unfinished:
        raise CraneError(f"{folder}: is not finished: {finding.unfinished}")
    profile = manifest.profile["name"]
    captions = read_object(folder / CAPTIONS)
    files = []
    for name, value in {**manifest.outputs, NAME: sha256(folder / NAME)}.items():
        about = {"name": name, "description": _description(name, captions), "sha256": value}
        about |= {"encodingFormat": _media_type(name), "contentSize": str((folder / name).stat().st_size)}
        files.append(crate.add_file(folder / name, dest_path=f"{place}/{name}", properties=about))
    results = crate.add_dataset(dest_path=f"{place}/", properties={"name": f"Results of the profile {profile}"})
    results["description"] = manifest.profile["description"]
    results["hasPart"] = files
    results["variableMeasured"] = _verdicts(crate, folder, profile)
    program = _program(crate, manifest, citation)
    sections = [section.model_dump() for section in manifest.sections]
    started = [section["started_at"] for section in sections if section.get("started_at")]
    about = {
        "name": f"Run of the profile {profile}",
        "description": f"./run_all.sh --profile {profile}",
        "endTime": manifest.written_at,
        "actionStatus": "http://schema.org/CompletedActionStatus",
        **({"startTime": min(started)} if len(started) == len(sections) else {}),
    }
    settings = [file for file in files if file.id == f"{place}/profile.yaml"]
    action = crate.add_action(program, f"#run-{profile}", object=settings, result=[results], properties=about)
    action["agent"] = crate.creator
    action["additionalProperty"] = _machine(crate, manifest, profile)
    crate.root_dataset.append_to("mentions", action)
    return manifest.written_at


def _description(name: str, captions: Mapping[str, Any]) -> str:
    kind, _, rest = name.partition("/")
    said = f"{_KINDS[kind]} {Path(rest).stem}" if kind in _KINDS else f"File {name} of the run"
    return f"{said}: {captions[key]}" if (key := name.rpartition(".")[0]) in captions else said


def _media_type(name: str) -> str:
    own = {".ipynb": "application/x-ipynb+json", ".yaml": "application/yaml", ".md": "text/markdown"}
    return own.get(Path(name).suffix) or mimetypes.guess_type(name)[0] or "application/octet-stream"


def _verdicts(crate: ROCrate, folder: Path, profile: str) -> list[ContextEntity]:
    """Verdicts of the claims as properties that were measured."""
    found = []
    for claim in read_claims(folder / "claims.json"):
        case = " / ".join(str(claim[key]) for key in ("id", "method", "budget", "measure"))
        name = f"#{profile}-{case.replace(' / ', '-').replace(' ', '-')}"
        found.append(_entity(crate, name, "PropertyValue", name=case, propertyID=claim["id"], value=claim["verdict"]))
    return found


def _program(crate: ROCrate, manifest: Manifest, citation: Mapping[str, Any]) -> ContextEntity:
    """The study's program at its commit, with the versions that it ran on."""
    name = f"#crane-{manifest.commit or 'unknown'}"
    found = _entity(
        crate, name, "SoftwareApplication", name=citation["title"], url=citation["preferred-citation"]["url"]
    )
    found["softwareVersion"] = citation["version"] + (f", commit {manifest.commit}" if manifest.commit else "")
    versions = [("generic", "python", manifest.python)]
    versions += [("pypi", name, version) for name, version in manifest.packages.items() if version]
    found["softwareRequirements"] = [
        _entity(crate, f"pkg:{kind}/{name}@{version}", "SoftwareApplication", name=name, softwareVersion=version)
        for kind, name, version in versions
    ]
    return found


def _machine(crate: ROCrate, manifest: Manifest, profile: str) -> list[ContextEntity]:
    told = manifest.machine.model_dump()
    shown = {name: told.get(name) for name in ("processor", "usable_cores", "memory_bytes", "cuda_runtime")}
    shown["gpus"] = ", ".join(str(gpu["name"]) for gpu in manifest.machine.gpus)
    return [
        _entity(crate, f"#{profile}-{name}", "PropertyValue", name=name, value=value)
        for name, value in shown.items()
        if value
    ]
