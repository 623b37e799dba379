"""What is said to a judge behind an OpenAI-compatible address, and what its replies mean."""

from __future__ import annotations

import email.utils
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import httpx2

from crane_lib.errors import CraneError
from crane_lib.evaluation.judges import HIGHEST, LOWEST

URL, MODEL, KEY = "CRANE_JUDGE_URL", "CRANE_JUDGE_MODEL", "CRANE_JUDGE_KEY"
PATH = "/chat/completions"
INSTRUCTIONS = (
    "You grade answers of a chat assistant. Read the question and the answer, and weigh four things: is it correct, "
    "is it complete, is it clear, and is it useful to the person who asked. The answer should be in the language of "
    "the question. Give one whole number from 1 (worthless) to 10 (excellent) and say why in one or two sentences. "
    'Reply with nothing but a JSON object: {"score": <1 to 10>, "reason": "<text>"}'
)
_LONGEST_TOLD = 600.0  # seconds that a server may ask to wait


@dataclass(frozen=True)
class Endpoint:
    """Where the judge is and what it is called; the key is not shown when this is printed."""

    url: str
    model: str
    key: str = field(repr=False)

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> Endpoint:
        """The endpoint that the environment names.

        Raises
        ------
        CraneError : a variable is missing, or the address is none
        """
        missing = [name for name in (URL, MODEL, KEY) if not environment.get(name)]
        if missing:
            raise CraneError(
                f"judge: {missing[0]} is not set; set {URL}, {MODEL} and {KEY} (any text where the server asks for "
                "none), or open_ended.judge: offline in the profile"
            )
        url = environment[URL].rstrip("/").removesuffix(PATH)
        try:
            parsed = httpx2.URL(url)
        except (httpx2.InvalidURL, ValueError):
            parsed = httpx2.URL("")
        if parsed.scheme not in ("http", "https") or not parsed.host:
            raise CraneError(f"judge: {URL} is not an address; expected one like https://host/v1")
        if parsed.userinfo or parsed.query:
            raise CraneError(f"judge: {URL} holds a name, password or query; put the key into {KEY} instead")
        key = environment[KEY]
        if not key.isascii() or not key.isprintable() or key != key.strip():
            raise CraneError(f"judge: {KEY} has a space at an end, a line break or another character that no key has")
        return cls(url, environment[MODEL], key)

    @property
    def host(self) -> str:
        """Name of the server, for messages."""
        return str(httpx2.URL(self.url).netloc.decode())


def messages(question: str, answer: str) -> list[dict[str, str]]:
    """What the judge is asked about one answer."""
    asked = f"Question:\n{question}\n\nAnswer:\n{answer or '(no answer)'}"
    return [{"role": "system", "content": INSTRUCTIONS}, {"role": "user", "content": asked}]


def parse_judging(content: Any) -> tuple[float, str] | None:
    """Score and reason of a judge's reply, None where it is malformed or its score not from 1 to 10."""
    if not isinstance(content, str):
        return None
    fenced = re.fullmatch(r"\s*```(?:json)?\s*(.*?)\s*```\s*", content, flags=re.DOTALL)
    try:
        value = json.loads(fenced.group(1) if fenced else content)
    except (ValueError, RecursionError):  # a reply may nest brackets without end
        return None
    score: Any = value.get("score") if isinstance(value, dict) else None
    reason = value.get("reason", "") if isinstance(value, dict) else ""
    if type(score) not in (int, float) or not LOWEST <= score <= HIGHEST or not isinstance(reason, str):
        return None
    return float(score), reason


def retry_after(value: str | None, *, now: float) -> float | None:
    """Seconds that a Retry-After header asks to wait (a number or a date), None where it says nothing."""
    if not value:
        return None
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = email.utils.parsedate_to_datetime(value).timestamp() - now
        except (TypeError, ValueError, OverflowError):
            return None
    return min(max(seconds, 0.0), _LONGEST_TOLD) if seconds == seconds else None


def content_of(reply: httpx2.Response) -> Any:
    """What a reply says, None where it says nothing."""
    try:
        return reply.json()["choices"][0]["message"]["content"]
    except (ValueError, KeyError, IndexError, TypeError, RecursionError):
        return None
