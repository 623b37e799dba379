"""Texts that are named on the command line: ``--corpus en=en.jsonl``, ``--corpus vi=hf://OWNER/NAME:CONFIG``."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from crane_lib.errors import CraneError
from crane_study.data.text_choice import LEFT_OUT, CorpusOptions, choose_texts
from crane_study.data.user_files import SEPARATED, read_texts, split_name
from crane_study.language_codes import check_different, language_key
from crane_study.progress import SOON, ProgressTask, progress

if TYPE_CHECKING:
    import numpy as np
    from transformers import PreTrainedTokenizerBase

_HUB = "hf://"
_FORM = re.compile(
    r"(?P<dataset>/?[^@:#]+)(@(?P<revision>[^:#]+))?(:(?P<config>[^:#]*)(:(?P<split>[^:#]+))?)?(#(?P<field>.+))?"
)


@dataclass(frozen=True)
class HubTexts:
    """Texts of a data set of the hub or of a folder: ``hf://OWNER/NAME@REVISION:CONFIG:SPLIT#COLUMN``."""

    dataset: str
    config: str | None = None
    split: str = "train"
    field: str = "text"
    revision: str = "main"

    @classmethod
    def named(cls, name: str) -> HubTexts:
        """Read a name; CraneError if it has another form."""
        found = _FORM.fullmatch(name.removeprefix(_HUB))
        if found is None or (not found["dataset"].startswith("/") and found["dataset"].count("/") > 1):
            raise CraneError(f"{name}: expected {_HUB}OWNER/NAME, with @REVISION, :CONFIG, :CONFIG:SPLIT or #COLUMN")
        return cls(**{part: value for part, value in found.groupdict().items() if value})

    def pinned(self) -> HubTexts:
        """The same at the commit that its revision now is."""
        from crane_study.hub import commit_of

        try:
            return replace(self, revision=commit_of(self.dataset, self.revision))
        except CraneError as error:
            raise CraneError(f"{error}; or give a file of its texts in its place") from error

    def read(self) -> Iterator[str]:
        """Read its texts one after another; no more is fetched than is read."""
        from crane_study.data.corpora import open_stream, text_of
        from crane_study.hub import naming_mistakes

        stream = open_stream(vars(self))
        with naming_mistakes(f"dataset {self.dataset}", self.revision):
            for row in stream:
                yield text_of(row, name=self.dataset, field=self.field)

    def __str__(self) -> str:
        return f"{_HUB}{self.dataset}@{self.revision}:{self.config or ''}:{self.split}#{self.field}"


Source = Path | HubTexts


@dataclass(frozen=True)
class Corpus:
    """Texts of a language: where they come from, how many were read and left out, and the texts themselves."""

    source: Source
    counts: dict[str, int]
    texts: list[str]

    def facts(self, tokens: Sequence[np.ndarray]) -> dict[str, Any]:
        """Describe what a model reads of it: documents, their tokens and hash, and texts that were left out."""
        unread = len(self.texts) - len(tokens)  # of fewer than two tokens
        counts = self.counts | {"short": self.counts["short"] + unread}
        pinned = {"source": str(self.source)} if isinstance(self.source, HubTexts) else {}
        sizes = {"documents": len(tokens), "tokens": sum(map(len, tokens))}
        return {**sizes, "sha256": texts_hash(self.texts), "left_out": counts, **pinned}


def _named(pairs: Sequence[str], option: str, *, hub: bool) -> Iterator[tuple[str, str]]:
    """Languages, in their usual letter case, and what is given for them."""
    seen: list[str] = []
    for pair in pairs:
        given, equals, name = pair.partition("=")
        if not (given and equals and name):
            raise CraneError(f"{option} {pair!r}: expected language=file, such as en=en.jsonl")
        seen.append(language_key(given))
        if seen[-1] in seen[:-1]:
            raise CraneError(f"{option} {pair!r}: {seen[-1]} was given before; join its files into one")
        if not (hub and name.startswith(_HUB)) and not Path(name).is_file():
            raise CraneError(f"{option} {pair!r}: there is no file {name}")
        yield seen[-1], name
    check_different(seen)


def named_files(pairs: Sequence[str], *, option: str = "--corpus") -> dict[str, Path]:
    """Read ``language=file`` pairs.

    Raises
    ------
    CraneError : a pair without a language or a file, a misspelt code of a language, a language that comes twice, also
        as another code of the same, or no such file
    """
    return {language: Path(name) for language, name in _named(pairs, option, hub=False)}


def named_sources(pairs: Sequence[str]) -> dict[str, Source]:
    """Read ``language=file`` pairs, and such of the hub: ``language=hf://...``; errors as of `named_files`."""
    named = dict(_named(pairs, "--corpus", hub=True))
    return {k: HubTexts.named(name) if name.startswith(_HUB) else Path(name) for k, name in named.items()}


def read_corpora(sources: Mapping[str, Source], options: CorpusOptions) -> dict[str, Corpus]:
    """Read and choose the texts of every source.

    Raises
    ------
    CraneError : a source that cannot be read, or with fewer than two texts that are left
    """
    found = {}
    for language, source in sources.items():
        given = source.pinned() if isinstance(source, HubTexts) else source
        texts = given.read() if isinstance(given, HubTexts) else read_texts(given)
        most = options.skip + options.documents if options.documents else None
        with progress(f"Reading {language}", len(texts) if isinstance(texts, list) else most, delay=SOON) as bar:
            chosen = choose_texts(_counted(texts, bar), options)
        if len(chosen.texts) < 2:
            left = f" (after the first {options.skip})" if options.skip else ""
            text_file = not isinstance(given, HubTexts) and split_name(given)[1] == ".txt"
            told = left_out(chosen.counts) or "none left out"
            raise CraneError(
                f"{source}: of {chosen.counts['read']} texts {len(chosen.texts)} are taken{left}; {told}; "
                "two or more are needed" + (f"; {SEPARATED}" if text_file else "")
            )
        found[language] = Corpus(given, chosen.counts, chosen.texts)
    return found


def _counted(texts: Iterable[str], bar: ProgressTask) -> Iterator[str]:
    for text in texts:
        bar.advance()
        yield text


def left_out(counts: Mapping[str, int]) -> str:
    """Tell how many texts were left out: ``2 copies, 1 near copies``; empty if none."""
    return ", ".join(f"{counts[kind]} {kind.replace('_', ' ')}" for kind in LEFT_OUT if counts[kind])


def remarks(corpora: Mapping[str, Corpus]) -> list[str]:
    """Lines for people: how many texts were left out, and whose language looks like another one."""
    from crane_study.own.language_check import language_warnings

    told = [f"{language} {told}" for language, own in corpora.items() if (told := left_out(own.counts))]
    warned = language_warnings({language: (str(own.source), own.texts) for language, own in corpora.items()})
    return [*([f"texts left out: {'; '.join(told)}"] if told else []), *warned]


def encoded(
    corpora: Mapping[str, Corpus], tokenizer: PreTrainedTokenizerBase, *, max_length: int
) -> dict[str, list[np.ndarray]]:
    """Token ids of the texts of every language, cut at `max_length` tokens."""
    from crane_study.data.corpora import token_ids

    found = {language: token_ids(own.texts, tokenizer, max_length=max_length) for language, own in corpora.items()}
    for language, documents in found.items():
        if len(documents) < 2:
            raise CraneError(f"corpus {language}: has no two texts of two tokens or more")
    return found


def texts_hash(texts: Sequence[str]) -> str:
    """SHA-256 of texts in their order."""
    digest = hashlib.sha256()
    for text in texts:
        digest.update(f"{len(text)} {text}\n".encode())
    return digest.hexdigest()
