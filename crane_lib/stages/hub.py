"""Stage: documents sampled from corpora of the hub, or from a user's files, for a model of the hub."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from crane_lib.errors import CraneError
from crane_lib.files import fingerprint, write_frame, write_json
from crane_lib.models.hub import naming_mistakes
from crane_lib.progress import progress
from crane_lib.relevance.distributed import rank
from crane_lib.stages.local import read_documents

_FEWEST = 8  # documents the statistics need
COLUMNS = ["place", "text"]


def open_stream(text: Mapping[str, Any]) -> Any:
    """The data set of a language as a stream; nothing but its list of files is fetched yet.

    Raises
    ------
    CraneError : it cannot be had, or has no such configuration or split
    """
    from datasets import load_dataset
    from datasets.exceptions import DatasetNotFoundError

    name, config = text["dataset"], text["config"]
    try:
        with naming_mistakes(f"dataset {name}", text["revision"]):
            return load_dataset(name, config, split=text["split"], revision=text["revision"], streaming=True)
    except DatasetNotFoundError as error:
        if "gated" in str(error):
            raise CraneError(
                f"dataset {name}: is gated; accept its terms on https://huggingface.co/datasets/{name} and log in (hf "
                "auth login, or the variable HF_TOKEN)"
            ) from error
        raise CraneError(
            f"dataset {name}: is not on the hub, or not to be seen without a token (hf auth login, HF_TOKEN); check "
            "its name"
        ) from error
    except (ValueError, FileNotFoundError) as error:
        reason = " ".join(str(error).split())[:200]
        raise CraneError(
            f"dataset {name}: has no config {config!r} with a split {text['split']!r} ({reason})"
        ) from error


def sample_shard(
    rows: Iterator[Mapping[str, Any]], count: int, *, name: str, field: str, window: int, random_seed: list[int]
) -> pd.DataFrame:
    """Documents of one shard, each of the first `window` (0: of all) with the same chance (reservoir sampling).

    Returns
    -------
    frame of place (row in the shard) and text, in the shard's order

    Raises
    ------
    CraneError : the rows have no such field, or it is no text
    """
    generator = np.random.default_rng(random_seed)
    kept: list[tuple[int, str]] = []
    seen = 0
    for place, row in enumerate(rows):
        if window and place >= window:
            break
        if field not in row:
            raise CraneError(f"dataset {name}: has no field {field!r}; seen {', '.join(map(str, row))}")
        value = row[field]
        if not (value is None or isinstance(value, str)):
            raise CraneError(f"dataset {name}: field {field!r} holds no text but {type(value).__name__}; name another")
        text = (value or "").strip()
        if not text:
            continue
        seen += 1
        if len(kept) < count:
            kept.append((place, text))
        elif (slot := int(generator.integers(seen))) < count:
            kept[slot] = (place, text)
    return pd.DataFrame(sorted(kept), columns=COLUMNS)


def sample_stream(
    stream: Any, count: int, *, name: str, field: str, sampling: Mapping[str, Any], scratch: Path | None
) -> pd.DataFrame:
    """`count` different documents of a stream, drawn as `crane_lib.profile_hub.Sampling` says.

    Each shard's share is kept in `scratch` as soon as it is drawn, so that an interrupted sampling goes on from there.

    Returns
    -------
    frame of shard, place and text, in a random order
    """
    seed, total = sampling["random_seed"], stream.num_shards
    order = np.random.default_rng(seed).permutation(total)
    first = min(sampling["shards"], total)
    share = -(-count // first)
    parts: list[pd.DataFrame] = []
    found = 0
    with progress(f"Sampling {name}", count) as bar:
        # More shards than asked for only where texts were empty or stood there twice.
        for number, shard in enumerate(map(int, order)):
            if found >= count:
                break
            file = scratch / f"{shard:05d}.parquet" if scratch is not None else None
            if file is not None and file.is_file():
                drawn = pd.read_parquet(file)
            else:
                with naming_mistakes(f"dataset {name}", ""):
                    drawn = sample_shard(
                        iter(stream.shard(num_shards=total, index=shard)),
                        share,
                        name=name,
                        field=field,
                        window=sampling["window"],
                        random_seed=[seed, shard],
                    )
                if file is not None:
                    write_frame(file, drawn)
            parts.append(drawn.assign(shard=shard))
            if number + 1 >= first:
                found = pd.concat(parts)["text"].nunique()
            bar.advance(len(drawn))
    documents = pd.concat(parts, ignore_index=True).drop_duplicates("text", ignore_index=True)
    return documents.sample(frac=1, random_state=seed).head(count).reset_index(drop=True)


def _documents(text: Mapping[str, Any], count: int, *, sampling: Mapping[str, Any], scratch: Path) -> pd.DataFrame:
    """Documents of a language with their ids: where each of them comes from."""
    if text["file"] is not None:
        texts = list(dict.fromkeys(read_documents(Path(text["file"]))))
        order = np.random.default_rng(sampling["random_seed"]).permutation(len(texts))[:count]
        name = Path(text["file"]).name
        return pd.DataFrame({"text": [texts[i] for i in order], "id": [f"{name}#{i}" for i in order]})
    name = text["dataset"]
    folder = scratch / fingerprint({"text": dict(text), "count": count, "sampling": dict(sampling)})
    found = sample_stream(open_stream(text), count, name=name, field=text["field"], sampling=sampling, scratch=folder)
    label = "/".join(filter(None, [name, text["config"], text["split"]]))
    ids = [f"{label}#{shard}:{place}" for shard, place in zip(found["shard"], found["place"], strict=True)]
    return found[["text"]].assign(id=ids)


def make_hub_corpus(
    folder: Path,
    *,
    scratch: Path,
    texts: Mapping[str, Mapping[str, Any]],
    relevance_documents: int,
    perplexity_documents: int,
    sampling: Mapping[str, Any],
) -> None:
    """Write documents.parquet (with the place and hash of every document) and sample.json."""
    if rank() != 0:  # where several processes were started the first one draws
        return
    frames, about = [], {}
    for language, text in sorted(texts.items()):
        documents = _documents(text, relevance_documents + perplexity_documents, sampling=sampling, scratch=scratch)
        source = text["file"] or text["dataset"]
        if len(documents) < _FEWEST:
            raise CraneError(
                f"corpus {source}: has {len(documents)} different documents; the statistics need {_FEWEST} or more"
            )
        held_out = min(perplexity_documents, len(documents) // 2)
        split = ["perplexity"] * held_out + ["relevance"] * (len(documents) - held_out)
        hashes = [hashlib.sha256(document.encode()).hexdigest() for document in documents["text"]]
        frames.append(
            documents.assign(split=split, language=language, kind="text", sentences=[[] for _ in split], sha256=hashes)
        )
        about[language] = {
            "source": str(source),
            **{name: text[name] for name in ("config", "split", "field", "revision") if text["dataset"]},
            "documents": len(documents),
            "sha256": hashlib.sha256("".join(hashes).encode()).hexdigest(),
        }
    write_frame(folder / "documents.parquet", pd.concat(frames, ignore_index=True))
    write_json(folder / "sample.json", {"sampling": dict(sampling), "languages": about})
