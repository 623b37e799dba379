"""The table of docs/licences.md with the licence of every locked package, from the metadata of those installed.

python -m tools.licences write    # in the environment of the lock files, after a change of them
python -m tools.licences check    # as the tests do
"""

from __future__ import annotations

import importlib.metadata
import re
import sys
from collections import defaultdict

from crane_study import ROOT

PAGE = ROOT / "docs" / "licences.md"
LOCKS = ("base", "torch-cpu", "torch-cuda", "installer")
_BLOCK = re.compile(r"(<!-- packages -->\n).*?(<!-- end -->)", re.DOTALL)
# Classes in the order in which a name decides: what asks most comes first.
CLASSES = {
    "strong copyleft": r"\bA?GPL|GNU (Affero )?General Public",
    "weak copyleft": r"\bLGPL|Lesser General Public|\bMPL|Mozilla Public|\bEPL",
    "fonts": r"\bOFL|Open Font",
    "permissive": r"\bMIT|\bBSD|0BSD|Apache|\bISC|Python Software Foundation|\bPSF|\bZlib|Unlicense|public domain"
    r"|\bHPND|\bCC0|Academic Free|Historical Permission|Unicode",
}
NVIDIA = "terms of NVIDIA, in each wheel"
# Packages for another system or for CUDA, which are not installed everywhere; their licences as their projects say.
KNOWN = {"appnope": "BSD-2-Clause", "triton": "MIT"}
_SAME = {  # other spellings
    r"(The )?MIT License( \(MIT\))?": "MIT",
    r"Apache( Software)?( License)?,?( Version)? ?(2\.0)?( License)?": "Apache-2.0",
    r"ISC License \(ISCL\)": "ISC",
    r"Mozilla Public License 2\.0 \(MPL 2\.0\)": "MPL-2.0",
    r"Python Software Foundation License": "PSF-2.0",
}


def locked(*locks: str) -> dict[str, str]:
    """Versions of the packages of locks by name, of all if none is named."""
    found: dict[str, str] = {}
    for name in locks or LOCKS:
        text = (ROOT / "requirements" / f"{name}.lock").read_text(encoding="utf-8")
        found |= dict(re.findall(r"^([\w.-]+)(?:\[[^]]*\])?==([^\s;\\]+)", text, re.MULTILINE))
    return found


def licence_of(name: str) -> str:
    """Licence of a package in few words, by its metadata; empty where they say none."""
    if name.startswith(("nvidia-", "cuda-")):
        return NVIDIA
    if name in KNOWN:
        return KNOWN[name]
    try:
        about = importlib.metadata.metadata(name)
    except importlib.metadata.PackageNotFoundError:
        return ""
    if "License-Expression" in about:
        return about["License-Expression"]
    classified = [
        text.rpartition(" :: ")[2] for text in about.get_all("Classifier") or () if text.startswith("License")
    ]
    named = [text for text in classified if text not in ("OSI Approved", "License")]
    first = " ".join(about.get_all("License") or ()).strip().partition("\n")[0]
    told = " AND ".join(named) or (first if len(first) < 60 else "")
    return next((short for pattern, short in _SAME.items() if re.fullmatch(pattern, told)), told)


def class_of(licence: str) -> str:
    """Class of a licence; of several that are joined by OR, the one that asks least."""
    if licence == NVIDIA:
        return "proprietary"
    order = [*CLASSES, ""]
    choices = [next((k for k, p in CLASSES.items() if re.search(p, one)), "unknown") for one in licence.split(" OR ")]
    return max(choices, key=lambda name: order.index(name) if name in order else -1)


def packages() -> str:
    """Numbers of packages by class, and their names by licence."""
    names: dict[tuple[str, str], list[str]] = defaultdict(list)
    for name in sorted(locked()):
        licence = licence_of(name)
        names[class_of(licence), licence].append(name)
    kinds = sorted({kind for kind, _licence in names})
    counts = [(kind, sum(len(found) for (one, _l), found in names.items() if one == kind)) for kind in kinds]
    lines = ["| class | packages |", "|---|---|", *(f"| {kind} | {count} |" for kind, count in counts)]
    lines += ["", "| class | licence | packages |", "|---|---|---|"]
    for (kind, licence), found in sorted(names.items(), key=lambda row: (row[0][0] == "permissive", row[0])):
        lines.append(f"| {kind} | {licence} | {', '.join(f'`{name}`' for name in found)} |")
    return "\n".join(lines)


def filled(text: str) -> str:
    """Text of the page with its table written again."""
    return _BLOCK.sub(lambda found: f"{found[1]}{packages()}\n{found[2]}", text)


def main() -> None:
    """Write or check the page."""
    if sys.argv[1:] not in (["write"], ["check"]):
        raise SystemExit("tools.licences: write or check")
    before = PAGE.read_text(encoding="utf-8")
    after = filled(before)
    if sys.argv[1] == "write":
        PAGE.write_text(after, encoding="utf-8")
    elif after != before:
        raise SystemExit(f"{PAGE.name}: its packages are not those of the locks; run python -m tools.licences write")


if __name__ == "__main__":
    main()
