"""Models and data sets of the Hugging Face hub: fetched once, then read from the hub's cache.

Tokens are handled by huggingface_hub (HF_TOKEN, or ``hf auth login``); they are neither read nor written here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import huggingface_hub
from huggingface_hub import constants, errors

from crane_lib.errors import CraneError
from crane_study.loading.weights import check_config, check_settings

_MODEL_FILES = ("*.json", "*.safetensors", "*.model", "*.txt", "*.jinja")
_OLD_WEIGHTS = ("*.bin",)  # only without safetensors: a repository may hold both
_CODE = ("*.py",)
_OTHERS = ("original/*", "onnx/*", "consolidated*")


def is_local(name: str) -> bool:
    """Return whether a name is a folder (``./x``, ``../x``, ``/x``) and not an id of the hub."""
    return name.startswith((".", "/"))


def _check(folder: Path) -> None:
    from crane_study.loading.models import check_model_directory  # loads torch, which most commands do without

    check_model_directory(folder)


def gated(what: str) -> CraneError:
    """Return the error of a model or data set (``model NAME``, ``dataset NAME``) whose terms are to be accepted."""
    name = what.removeprefix("model ").replace("dataset ", "datasets/", 1)
    where = f"https://huggingface.co/{name}"
    return CraneError(f"{what}: is gated; accept its terms on {where} and log in (hf auth login, or variable HF_TOKEN)")


def absent(what: str) -> CraneError:
    """Return the error of a model or data set that the hub does not show."""
    return CraneError(
        f"{what}: is not on the hub, or not visible without a token (hf auth login, HF_TOKEN); check its name"
    )


def _snapshot(name: str, **options: Any) -> Path:
    return Path(huggingface_hub.snapshot_download(name, **options))


@contextmanager
def naming_mistakes(what: str, revision: str) -> Iterator[None]:
    """Turn errors of the hub's libraries inside the block into one line that says what to do."""
    http_error: type[Exception] = errors.HfHubHTTPError.__bases__[0]  # of the hub's HTTP library, which has changed
    try:
        yield
    except errors.GatedRepoError as error:
        raise gated(what) from error
    except errors.RevisionNotFoundError as error:
        raise CraneError(f"{what}: has no revision {revision!r}; look at its history on the hub") from error
    except errors.RepositoryNotFoundError as error:
        raise absent(what) from error
    except errors.OfflineModeIsEnabled as error:
        raise CraneError(
            f"{what}: is not (or not fully) in the hub's cache, and HF_HUB_OFFLINE forbids fetching it; unset it once"
        ) from error
    except errors.LocalEntryNotFoundError as error:
        raise CraneError(_not_there(what)) from error
    except (http_error, ConnectionError) as error:
        reason = " ".join(str(error).split())[:120]
        raise CraneError(
            f"{what}: the hub cannot be reached ({type(error).__name__}: {reason}); start again"
        ) from error


def _not_there(what: str) -> str:
    why = "HF_HUB_OFFLINE forbids fetching it" if constants.HF_HUB_OFFLINE else "the hub cannot be reached"
    return f"{what}: is not (or not fully) in the hub's cache, and {why}; fetch it once with a network"


def model_directory_of(name: str, *, revision: str, trust_remote_code: bool = False) -> Path:
    """Return the directory of a model of the hub, fetched if the cache lacks it; a named folder itself."""
    if is_local(name):
        return Path(name)
    patterns = [*_MODEL_FILES, *(_CODE if trust_remote_code else ())]

    def fetch(wanted: Sequence[str]) -> Path:
        return _snapshot(name, revision=revision, allow_patterns=list(wanted), ignore_patterns=list(_OTHERS))

    with naming_mistakes(f"model {name}", revision):
        check_settings(fetch(["*.json"]))  # before gigabytes are fetched
        folder = fetch(patterns)
        if not any(folder.glob("*.safetensors")):
            folder = fetch([*patterns, *_OLD_WEIGHTS])
    if not any(folder.glob("*.safetensors")) and not any(folder.glob("*.bin")):
        raise CraneError(_not_there(f"model {name}"))
    _check(folder)
    return folder


def dataset_files(name: str, *, revision: str, patterns: Sequence[str]) -> Path:
    """Return a folder with the matching files of a data set of the hub, fetched if the cache lacks them."""
    if is_local(name):
        return Path(name)
    with naming_mistakes(f"dataset {name}", revision):
        folder = _snapshot(name, repo_type="dataset", revision=revision, allow_patterns=list(patterns))
    if not any(next(folder.glob(pattern), None) for pattern in patterns):
        raise CraneError(
            f"dataset {name}: has no {patterns[0]} at revision {revision} (or not in the cache); fetch it by hand and "
            "give the task a path"
        )
    return folder


def cached_model(name: str, *, revision: str) -> bool:
    """Return whether a model of the hub is complete in the cache; needs no network."""
    try:
        folder = _snapshot(name, revision=revision, local_files_only=True)
        _check(folder)
    except (OSError, CraneError, ValueError):
        return False
    return True


def check_cached_settings(name: str, *, revision: str) -> None:
    """Check the settings of a model of which the cache has a part or all, as `crane_study.loading.weights` does."""
    with suppress(OSError, ValueError):
        check_settings(_snapshot(name, revision=revision, local_files_only=True))


def cached_dataset_files(name: str, *, revision: str, patterns: Sequence[str]) -> bool:
    """Return whether the cache has files for every pattern of a data set; needs no network."""
    return cached_dataset(name, revision=revision, patterns=patterns) is not None


def cached_dataset(name: str, *, revision: str, patterns: Sequence[str]) -> Path | None:
    """Return the folder of a data set in the cache; None if files of a pattern are missing; needs no network."""
    try:
        folder = _snapshot(name, repo_type="dataset", revision=revision, local_files_only=True)
    except (OSError, ValueError):
        return None
    return folder if all(next(folder.glob(pattern), None) for pattern in patterns) else None


def check_reachable(name: str, *, kind: str, revision: str) -> None:
    """Check that a revision of a model or data set (`kind`) can be fetched, with the token if there is one."""
    with naming_mistakes(f"{kind} {name}", revision):
        huggingface_hub.HfApi().auth_check(name, repo_type=kind)
        about = huggingface_hub.HfApi().repo_info(name, repo_type=kind, revision=revision)
    check_config(getattr(about, "config", None), name)  # a model's settings, in part


def commit_of(dataset: str, revision: str) -> str:
    """Return the commit that a revision of a data set of the hub is at; a folder's is the revision itself."""
    if is_local(dataset):
        return revision
    with naming_mistakes(f"dataset {dataset}", revision):
        return str(huggingface_hub.HfApi().dataset_info(dataset, revision=revision).sha)


def cache_folder() -> Path:
    """Return the folder of the hub's cache."""
    return Path(constants.HF_HUB_CACHE)
