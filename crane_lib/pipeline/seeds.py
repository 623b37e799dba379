"""The same study over several model seeds, each in a folder of its own, and their summary."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from crane_lib.errors import CraneError
from crane_lib.pipeline.console import Console, shown
from crane_lib.pipeline.run import Run
from crane_lib.pipeline.runner import alone, finish, run_sections
from crane_lib.profile import Profile
from crane_lib.profile_options import EmbeddedSource

LEAST = 2  # seeds that have a deviation


def seed_profiles(profile: Profile, count: int) -> list[Profile]:
    """The profile with `count` random seeds in a row; the first is the profile as it is, the others are named after.

    Raises
    ------
    CraneError : the profile's models are not trained here, or fewer than two seeds are asked for
    """
    if not isinstance(profile.source, EmbeddedSource):
        raise CraneError(
            f"--seeds: profile {profile.name} has models of its own, no seed changes them; only profiles whose model "
            "is trained on the spot (source.kind: embedded) can be repeated"
        )
    if count < LEAST:
        raise CraneError(f"--seeds {count}: expected {LEAST} or more, for a deviation needs two")
    seeds = range(profile.random_seed, profile.random_seed + count)
    return [
        profile
        if number == 0
        else profile.model_copy(update={"name": f"{profile.name}-seed{seed}", "random_seed": seed})
        for number, seed in enumerate(seeds)
    ]


def seed_runs(run: Run, count: int) -> list[Run]:
    """One run a seed, beside one another: ``mini``, ``mini-seed1``, ``mini-seed2``."""
    return [
        replace(run, profile=profile, folder=run.folder.with_name(profile.name))
        for profile in seed_profiles(run.profile, count)
    ]


def run_seeds(run: Run, count: int, *, fresh: bool, console: Console) -> int:
    """Run the study for every seed, then write the summary into ``seeds/`` of the first one's folder.

    What is done already is used again, seed by seed. Without claims of every seed there is no summary.

    Returns
    -------
    0 if every section of every seed is done, 1 if one failed
    """
    from crane_lib.output.seeds import missing_results, write_summary

    runs = seed_runs(run, count)
    codes = []
    for number, one in enumerate(runs, start=1):
        console.say(f"Model seed {number} of {count} (random seed {one.profile.random_seed})")
        codes.append(run_sections(one, fresh=fresh, console=console))
    folders: dict[int, Path] = {one.profile.random_seed: one.folder for one in runs}
    lacking = missing_results(folders)
    if max(codes) or lacking:
        console.say(f"No summary over seeds: {lacking or 'a section failed'}")
        return 1 if max(codes) else 0
    first = runs[0]
    with alone(first.folder):
        report = write_summary(folders, first.folder / "seeds", budget=first.profile.selection.budget)
        finish(first, again=True)
    console.say(f"Summary over {count} model seeds:")
    console.say(f"  {shown(report)}")
    return 0
