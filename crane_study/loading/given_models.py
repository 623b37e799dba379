"""Models that a profile names: a directory or GGUF file of the user, a fetched package, or the hub."""

from __future__ import annotations

from pathlib import Path

from crane_lib.errors import CraneError
from crane_study.fetch import fetched_directory
from crane_study.hub import model_directory_of
from crane_study.loading.gguf_files import as_directory
from crane_study.loading.models import check_model_directory, check_same_vocabulary
from crane_study.profile import EmbeddedSource, HubModel, Profile


def given_directory(profile: Profile, name: str) -> Path:
    """Directory of the ``base`` or ``chat`` model, fetched if it is not there yet."""
    source = profile.source
    assert not isinstance(source, EmbeddedSource)
    given = source.base_model if name == "base" else source.chat_model
    if given is None:
        raise CraneError(f"profile {profile.name}: names no {name} model")
    if isinstance(given, HubModel) and given.package and (fetched := fetched_directory(given.package)):
        path = fetched
    elif isinstance(given, HubModel):
        path = model_directory_of(given.id, revision=given.revision, trust_remote_code=source.trust_remote_code)
    else:
        path = given
    path = as_directory(path)
    check_model_directory(path)
    return path


def check_chat_tokenizer(profile: Profile, chat: Path) -> None:
    """Check that the chat model has the tokens of the base model."""
    source = profile.source
    assert not isinstance(source, EmbeddedSource)
    given = [source.base_model, source.chat_model]
    base_name, chat_name = (model.id if isinstance(model, HubModel) else str(model) for model in given)
    base, trusted = given_directory(profile, "base"), source.trust_remote_code
    check_same_vocabulary(base, chat, names=(base_name, chat_name), trust_remote_code=trusted)
