"""A language model behind an OpenAI-compatible address as judge.

Address, model and key come from the environment; the key goes into a request's header and nowhere else. Every judging
is kept on disk under the hash of all that was asked, so that a judging that was interrupted goes on where it stopped
and one that is repeated asks nothing. That goes for refusals of a single answer, too, once it is known that the server
judges others.
"""

from __future__ import annotations

import email.utils
import json
import logging
import math
import os
import re
import threading
import time
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import pandas as pd

from crane_lib.errors import CraneError
from crane_lib.files import fingerprint, read_json, write_json
from crane_study.measure.judge_offline import HIGHEST, LOWEST, PARTS
from crane_study.progress import progress

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


SCHEMA = "crane.judging/1"
_HOPELESS = 5  # different answers refused, and none judged: then it is not the answers


@dataclass(frozen=True)
class Judging:
    """What one judging came to: a score (NaN: missing) and its reason, or why there is none."""

    score: float
    reason: str

    @property
    def is_missing(self) -> bool:
        """Whether there is no score."""
        return math.isnan(self.score)


def keep(file: Path, judging: Judging) -> None:
    """Write a judging to its file."""
    score = None if judging.is_missing else judging.score
    write_json(file, {"schema": SCHEMA, "score": score, "reason": judging.reason, "refused": judging.is_missing})


def read_kept(file: Path) -> Judging | None:
    """A judging made before, None where there is none or it cannot be read."""
    if not file.is_file():
        return None
    try:
        value = read_json(file)
    except CraneError:
        return None
    if not isinstance(value, dict) or value.get("schema") != SCHEMA:
        return None
    if value.get("refused") is True and isinstance(value.get("reason"), str):
        return Judging(float("nan"), value["reason"])
    parsed = parse_judging(json.dumps(value))
    return Judging(*parsed) if parsed is not None else None


class Refusals:
    """Requests that a server refuses, held back until one judging shows that it does judge.

    From then on a refusal is the answer's own, counts as missing and is kept. As long as nothing was judged, the
    fault may as well be with address, model or protocol, so nothing is kept.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._works = False
        self._waiting: list[tuple[Path, Judging]] = []
        self._answers: set[str] = set()
        self._first: CraneError | None = None

    def judged(self) -> None:
        """Note that the server gave a score, now or in an earlier run."""
        with self._lock:
            self._works = True
            for file, judging in self._waiting:
                keep(file, judging)
            self._waiting.clear()

    def add(self, file: Path, said: str, *, answer: str, error: CraneError) -> Judging:
        """The missing judging of a refused request.

        Parameters
        ----------
        file : of the judging
        said : the server's reason
        answer : what identifies the answer, of which several judgings may be refused
        error : raised here where every answer so far was refused, and they are many
        """
        judging = Judging(float("nan"), f"refused ({said})")
        with self._lock:
            if self._works:
                keep(file, judging)
                return judging
            self._waiting.append((file, judging))
            self._answers.add(answer)
            self._first = self._first or error
            if len(self._answers) >= _HOPELESS:
                raise self._first
        return judging

    def check(self) -> None:
        """Raise the first refusal if nothing was judged."""
        if self._first is not None and not self._works:
            raise self._first


TEMPERATURE = 0.1
_MALFORMED_TRIES = 3  # answers that are no judging, before a judging counts as missing
_REFUSED_TRIES = 3  # where nobody listens, waiting long helps seldom
_TRIES = 7  # on rate limits, server errors and timeouts
_OF_ONE_ANSWER = (400, 413, 422)  # statuses of a request that its answer may be the reason of: forbidden, or too long
_LONGEST_WAIT = 60.0  # seconds between tries, unless the server names a time itself

logging.getLogger("httpx2").setLevel(logging.WARNING)


class _Stopped(Exception):
    """Another judging failed for good."""


class _Refused(CraneError):
    """The server does not take a request; `said` is what it says of it."""

    def __init__(self, message: str, said: str) -> None:
        super().__init__(message)
        self.said = said


class EndpointJudge:
    """Several judgings of every answer by the endpoint's model; the score is their mean.

    Parameters
    ----------
    cache : folder of judgings made before, of any study
    judgings : how often an answer is judged
    concurrency : requests at one time, at most
    timeout, first_wait : seconds until a request counts as failed, and before it is tried again (then doubled)
    """

    name = "endpoint"

    def __init__(
        self,
        endpoint: Endpoint,
        cache: Path,
        *,
        judgings: int = 3,
        concurrency: int = 8,
        timeout: float = 120.0,
        first_wait: float = 1.0,
    ) -> None:
        self._endpoint = endpoint
        self._cache = cache
        self._judgings = judgings
        self._concurrency = concurrency
        self._first_wait = first_wait
        self._timeout = timeout
        self._stop = threading.Event()
        self._failure: CraneError | None = None
        self._refusals = Refusals()

    def _cache_file(self, body: Mapping[str, Any], number: int) -> Path:
        name = fingerprint({"schema": SCHEMA, "address": self._endpoint.url, "body": body, "number": number})
        return self._cache / name[:2] / f"{name}.json"

    def _body(self, question: str, answer: str) -> dict[str, Any]:
        return {
            "model": self._endpoint.model,
            "messages": messages(question, answer),
            "temperature": TEMPERATURE,
            "response_format": {"type": "json_object"},
        }

    def score(self, answers: pd.DataFrame) -> pd.DataFrame:
        """Score answers; equal answers to a question are judged once.

        Raises
        ------
        CraneError : the server is down, refuses the key or every request, or gave not one usable judging
        """
        pairs = list(dict.fromkeys(zip(answers["text"], answers["answer"], strict=True)))
        found = self._judge([(pair, number) for pair in pairs for number in range(self._judgings)])
        rows = []
        for pair in zip(answers["text"], answers["answer"], strict=True):
            given = [found[pair, number] for number in range(self._judgings)]
            usable = [judging for judging in given if not judging.is_missing]
            score = sum(judging.score for judging in usable) / len(usable) if usable else float("nan")
            reason = usable[0].reason if usable else f"missing: {given[0].reason}"
            none = dict.fromkeys(PARTS, float("nan"))
            rows.append({"score": score, "reason": reason, "judgings": len(usable), **none})
        if rows and not any(row["judgings"] for row in rows):
            raise CraneError(
                f"judge at {self._endpoint.host}: none of {len(found)} replies was a score from 1 to 10; does "
                f"{self._endpoint.model!r} answer in JSON?"
            )
        return pd.DataFrame(rows, index=answers.index)

    def _judge(self, wanted: list[tuple[tuple[str, str], int]]) -> dict[tuple[tuple[str, str], int], Judging]:
        """All judgings, from the cache or asked for."""
        self._stop.clear()
        self._refusals = Refusals()
        found: dict[tuple[tuple[str, str], int], Judging] = {}
        headers = {"Authorization": f"Bearer {self._endpoint.key}"}
        with (
            progress("Judging answers", len(wanted)) as bar,
            httpx2.Client(headers=headers, timeout=self._timeout, follow_redirects=False) as client,
            ThreadPoolExecutor(self._concurrency) as pool,
        ):
            left: dict[tuple[tuple[str, str], int], tuple[dict[str, Any], Path]] = {}
            for pair, number in wanted:
                body = self._body(*pair)
                file = self._cache_file(body, number)
                kept = read_kept(file)
                if kept is None:
                    left[pair, number] = body, file
                    continue
                found[pair, number] = kept
                if not kept.is_missing:
                    self._refusals.judged()
            bar.skip(len(found))
            futures: dict[Future[Judging], tuple[tuple[str, str], int]] = {
                pool.submit(self._one, client, *asked): key for key, asked in left.items()
            }
            try:
                for future in as_completed(futures):
                    found[futures[future]] = future.result()
                    bar.advance()
            except BaseException as problem:
                self._stop.set()
                pool.shutdown(wait=False, cancel_futures=True)
                if isinstance(problem, _Stopped) and self._failure is not None:
                    raise self._failure from None
                raise
        self._refusals.check()
        return found

    def _one(self, client: httpx2.Client, body: Mapping[str, Any], file: Path) -> Judging:
        """One judging, kept in `file`."""
        try:
            return self._judging(client, body, file)
        except CraneError as error:  # will not get better; the other threads are not to ask on
            self._failure = error
            self._stop.set()
            raise

    def _judging(self, client: httpx2.Client, body: Mapping[str, Any], file: Path) -> Judging:
        for _try in range(_MALFORMED_TRIES):
            try:
                parsed = parse_judging(self._ask(client, body))
            except _Refused as refused:
                return self._refusals.add(file, refused.said, answer=str(body["messages"]), error=refused)
            if parsed is not None:
                judging = Judging(*parsed)
                keep(file, judging)
                self._refusals.judged()
                return judging
        return Judging(float("nan"), "the judge gave no usable score")

    def _ask(self, client: httpx2.Client, body: Mapping[str, Any]) -> Any:
        """Content of one reply, after as many tries as it takes; None where it has none."""
        wait = self._first_wait
        for number in range(1, _TRIES + 1):
            if self._stop.is_set():
                raise _Stopped
            told, last = None, number == _TRIES
            try:
                reply = client.post(self._endpoint.url + PATH, json=body)
            except httpx2.ConnectError as error:
                problem, last = f"cannot be reached ({_short(error)}); is it running?", number >= _REFUSED_TRIES
            except httpx2.TimeoutException:
                problem = f"gave no answer in {self._timeout:g} s"
            except httpx2.RequestError as error:
                problem = f"broke off ({_short(error)})"
            else:
                if reply.status_code == httpx2.codes.OK:
                    return content_of(reply)
                problem = self._refusal(reply)
                told = retry_after(reply.headers.get("retry-after"), now=time.time())
            if last:
                raise CraneError(
                    f"judge at {self._endpoint.host}: {problem}; gave up after {number} tries; what was judged is "
                    "kept, start again to go on"
                )
            self._stop.wait(told if told is not None else wait)
            wait = min(2 * wait, _LONGEST_WAIT)
        raise AssertionError  # the last try returns or raises

    def _refusal(self, reply: httpx2.Response) -> str:
        """What a reply says that may be better next time; one that will not be is an error."""
        status = reply.status_code
        if status in (401, 403):
            raise CraneError(f"judge at {self._endpoint.host}: refuses the key ({status}); check {KEY}")
        if status in (408, 425, 429) or status >= 500:
            return "asks for fewer requests (429)" if status == 429 else f"fails ({status})"
        said = f"{status}: {' '.join(reply.text.split()).replace(self._endpoint.key, '***')[:160]}"
        hint = f"check {URL} and {MODEL}" if status == 404 else "does it speak the OpenAI chat protocol?"
        message = f"judge at {self._endpoint.host}: refuses the request ({said}); {hint}"
        raise _Refused(message, said) if status in _OF_ONE_ANSWER else CraneError(message)


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:100] or type(error).__name__
