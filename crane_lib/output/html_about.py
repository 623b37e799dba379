"""What a run took and what it was made with, for the HTML report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from crane_lib.output.writing import MISSING


def times(manifest: Mapping[str, Any]) -> list[tuple[str, list[dict[str, Any]]]]:
    """Seconds and peak memory of sections and of stages, each with its share of the longest of its kind."""
    groups = []
    for title, key, name in (("Sections", "sections", "section"), ("Stages", "stages", "name")):
        records = manifest.get(key, [])
        longest = max((float(record["seconds"]) for record in records), default=0.0) or 1.0
        rows = [
            {
                "name": record[name],
                "seconds": f"{float(record['seconds']):,.1f}",
                "share": round(100 * float(record["seconds"]) / longest, 1),
                "memory": _mebibytes(record.get("peak_memory_mib")),
                "gpu": _mebibytes(record.get("peak_gpu_memory_mib")),
            }
            for record in records
        ]
        if rows:
            groups.append((title, rows))
    return groups


def _mebibytes(value: Any) -> str:
    return f"{float(value):,.0f}" if isinstance(value, int | float) else MISSING


def about(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """What the run was made with: everything in the manifest but times, outputs and the profile's own words."""
    told = {
        key: value
        for key, value in manifest.items()
        if key not in ("schema", "sections", "stages", "outputs", "packages", "profile")
    }
    if told.get("commit"):
        told["commit"] += " with uncommitted changes" if told.pop("uncommitted_changes", False) else ""
    packages = {name: version for name, version in manifest.get("packages", {}).items() if version}
    return {"told": _in_words(told), "packages": packages, "profile": _in_words(manifest.get("profile", {}))}


def _in_words(value: Any) -> Any:
    """Nested values as a reader sees them: keys in words, bytes as GiB, nothing as a dash."""
    if isinstance(value, Mapping):
        found = {}
        for key, item in value.items():
            name = str(key)
            if name.endswith("_bytes") and isinstance(item, int):
                name, item = name.removesuffix("_bytes"), f"{item / 2**30:.1f} GiB"
            words = name.replace("_", " ") if name.isidentifier() else name
            found[words[:1].upper() + words[1:] if name.isidentifier() else words] = _in_words(item)
        return found
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_in_words(item) for item in value] if value else "none"
    if value is None or value == {}:
        return MISSING
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)
