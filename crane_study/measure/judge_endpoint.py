"""A language model behind an OpenAI-compatible address as judge.

Address, model and key come from the environment; the key is sent in the header of a request and stored nowhere. Every
judging is saved on disk under the hash of the request, so that an interrupted run continues where it stopped and a
repeated one sends nothing. Refusals of a single answer are saved too, once the server has judged another answer.
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
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import httpx2
import pandas as pd
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from tenacity import RetryCallState, Retrying, retry_if_exception_type, sleep_using_event, wait_exponential

from crane_lib.errors import CraneError
from crane_lib.files import fingerprint, write_json
from crane_study.measure.judge_offline import HIGHEST, LOWEST, PARTS
from crane_study.progress import progress

URL, MODEL, KEY = "CRANE_JUDGE_URL", "CRANE_JUDGE_MODEL", "CRANE_JUDGE_KEY"
PATH = "/chat/completions"
SCHEMA = "crane.judging/1"
TEMPERATURE = 0.1
INSTRUCTIONS = (
    "You grade answers of a chat assistant. Read the question and the answer, and weigh four things: is it correct, "
    "is it complete, is it clear, and is it useful to the person who asked. The answer should be in the language of "
    "the question. Give one whole number from 1 (worthless) to 10 (excellent) and say why in one or two sentences. "
    'Reply with nothing but a JSON object: {"score": <1 to 10>, "reason": "<text>"}'
)
_MALFORMED_TRIES = 3  # replies without a usable score, before a judging counts as missing
_CONNECTION_TRIES = 3  # if no server listens, waiting longer rarely helps
_TRIES = 7  # on rate limits, server errors and timeouts
_LONGEST_WAIT = 60.0  # seconds between tries, unless the server asks for a wait
_LONGEST_ASKED_WAIT = 600.0  # seconds that a server may ask to wait
_ANSWER_STATUSES = (400, 413, 422)  # may be caused by the answer itself: forbidden content, or too long
_REFUSED_ANSWERS = 5  # different answers refused and none judged: the answers are not the cause

logging.getLogger("httpx2").setLevel(logging.WARNING)

_Key = tuple[str, str, int]  # question, answer and number of the judging


@dataclass(frozen=True)
class Endpoint:
    """Address, model and key of the judge; the key is not shown when this is printed."""

    url: str
    model: str
    key: str = field(repr=False)

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> Endpoint:
        """Read the endpoint from environment variables."""
        missing = [name for name in (URL, MODEL, KEY) if not environment.get(name)]
        if missing:
            raise CraneError(
                f"judge: {missing[0]} is not set; set {URL}, {MODEL} and {KEY} (any text if the server needs none), or "
                "open_ended.judge: offline in the profile"
            )
        url = environment[URL].rstrip("/").removesuffix(PATH)
        try:
            parsed = httpx2.URL(url)
        except (httpx2.InvalidURL, ValueError):
            parsed = httpx2.URL("")
        if parsed.scheme not in ("http", "https") or not parsed.host:
            raise CraneError(f"judge: {URL} is not an address; expected one like https://host/v1")
        if parsed.userinfo or parsed.query:
            raise CraneError(f"judge: {URL} contains a name, password or query; put the key into {KEY} instead")
        key = environment[KEY]
        if not key.isascii() or not key.isprintable() or key != key.strip():
            raise CraneError(f"judge: {KEY} has a space at an end, a line break or a character that is not ASCII")
        return cls(url, environment[MODEL], key)

    @property
    def host(self) -> str:
        """Name of the server, for messages."""
        return httpx2.URL(self.url).netloc.decode()

    def request(self, question: str, answer: str) -> dict[str, Any]:
        """Body of a request to judge one answer."""
        asked = f"Question:\n{question}\n\nAnswer:\n{answer or '(no answer)'}"
        return {
            "model": self.model,
            "messages": [{"role": "system", "content": INSTRUCTIONS}, {"role": "user", "content": asked}],
            "temperature": TEMPERATURE,
            "response_format": {"type": "json_object"},
        }


def _whole_characters(text: Any) -> Any:
    """Replace halves of characters, which models send where they cut off an emoji and no file can contain."""
    return re.sub("[\ud800-\udfff]", "\ufffd", text) if isinstance(text, str) else text


class Judging(BaseModel):
    """Result of one judging: a score (None: missing) and its reason, or why there is none."""

    model_config = ConfigDict(frozen=True, strict=True)

    score: Annotated[float, Field(ge=LOWEST, le=HIGHEST)] | None
    reason: Annotated[str, BeforeValidator(_whole_characters)] = ""

    def write(self, file: Path) -> None:
        """Save the judging."""
        write_json(file, {"schema": SCHEMA, **self.model_dump(), "refused": self.score is None})


def read_judging(file: Path) -> Judging | None:
    """Read a saved judging; None if there is none or it is damaged."""
    try:
        saved = json.loads(file.read_bytes())
        judging = Judging.model_validate(saved)
    except (OSError, ValueError, RecursionError):
        return None
    refused = saved.get("refused") is True
    return judging if saved.get("schema") == SCHEMA and refused == (judging.score is None) else None


def parse_judging(content: Any) -> Judging | None:
    """Parse a judge's reply; None if it is malformed or its score is not from 1 to 10."""
    if not isinstance(content, str):
        return None
    fenced = re.fullmatch(r"\s*```(?:json)?\s*(.*?)\s*```\s*", content, flags=re.DOTALL)
    try:
        judging = Judging.model_validate(json.loads(fenced.group(1) if fenced else content))
    except (ValueError, RecursionError):
        return None
    return None if judging.score is None else judging


def retry_after(value: str | None, *, now: float) -> float | None:
    """Seconds that a Retry-After header (a number or a date) asks to wait; None if it is absent or malformed."""
    if not value:
        return None
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = email.utils.parsedate_to_datetime(value).timestamp() - now
        except (TypeError, ValueError, OverflowError):
            return None
    return None if math.isnan(seconds) else min(max(seconds, 0.0), _LONGEST_ASKED_WAIT)


class _PassingFailure(Exception):
    """A request may succeed later: `wait` seconds are asked for by the server; give up after `tries` tries."""

    def __init__(self, problem: str, *, wait: float | None = None, tries: int = _TRIES) -> None:
        super().__init__(problem)
        self.wait, self.tries = wait, tries


class _AnswerRefused(Exception):
    """The server refuses a request, perhaps because of the answer in it; `reply` is the server's text."""

    def __init__(self, problem: str, reply: str) -> None:
        super().__init__(problem)
        self.reply = reply


class EndpointJudge:
    """Judge every answer several times by the endpoint's model; the score is the mean.

    `timeout` is in seconds; `first_wait`, the seconds before the second try, is doubled after each try.
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
        self._endpoint, self._cache = endpoint, cache
        self._judgings, self._concurrency, self._timeout = judgings, concurrency, timeout
        self._backoff = wait_exponential(multiplier=first_wait, max=_LONGEST_WAIT)
        self._stop = threading.Event()

    def score(self, answers: pd.DataFrame) -> pd.DataFrame:
        """Score answers; equal answers to a question are judged once."""
        pairs = list(zip(answers["text"], answers["answer"], strict=True))
        found = self._judge([(*pair, number) for pair in dict.fromkeys(pairs) for number in range(self._judgings)])
        rows = []
        for pair in pairs:
            given = [found[*pair, number] for number in range(self._judgings)]
            scores = [judging.score for judging in given if judging.score is not None]
            reasons = [judging.reason for judging in given if judging.score is not None]
            score = sum(scores) / len(scores) if scores else math.nan
            reason = reasons[0] if reasons else f"missing: {given[0].reason}"
            rows.append({"score": score, "reason": reason, "judgings": len(scores), **dict.fromkeys(PARTS, math.nan)})
        if rows and not any(row["judgings"] for row in rows):
            raise CraneError(
                f"judge at {self._endpoint.host}: none of {len(found)} replies was a score from 1 to 10; does "
                f"{self._endpoint.model!r} answer in JSON?"
            )
        return pd.DataFrame(rows, index=answers.index)

    def _file(self, body: Mapping[str, Any], number: int) -> Path:
        name = fingerprint({"schema": SCHEMA, "address": self._endpoint.url, "body": body, "number": number})
        return self._cache / name[:2] / f"{name}.json"

    def _judge(self, wanted: list[_Key]) -> dict[_Key, Judging]:
        """Read saved judgings and request the others."""
        self._stop.clear()
        bodies = {key: self._endpoint.request(*key[:2]) for key in wanted}
        files = {key: self._file(body, key[2]) for key, body in bodies.items()}
        found = {key: saved for key, file in files.items() if (saved := read_judging(file)) is not None}
        works = any(judging.score is not None for judging in found.values())
        refused: dict[
            _Key, _AnswerRefused
        ] = {}  # not saved until a score shows that it is not the request that is wrong
        with (
            progress("Judging answers", len(wanted)) as bar,
            httpx2.Client(
                headers={"Authorization": f"Bearer {self._endpoint.key}"}, timeout=self._timeout, follow_redirects=False
            ) as client,
            ThreadPoolExecutor(self._concurrency) as pool,
        ):
            bar.skip(len(found))
            missing = [key for key in wanted if key not in found]
            futures = {pool.submit(self._judge_once, client, bodies[key], files[key]): key for key in missing}
            try:
                for future in as_completed(futures):
                    key = futures[future]
                    try:
                        found[key] = future.result()
                    except _AnswerRefused as failure:
                        refused[key] = failure
                        found[key] = Judging(score=None, reason=f"refused ({failure.reply})")
                    works = works or found[key].score is not None
                    if works:
                        for each in refused:
                            found[each].write(files[each])
                        refused.clear()
                    elif len({key[:2] for key in refused}) >= _REFUSED_ANSWERS:
                        break
                    bar.advance()
                if refused:
                    raise CraneError(str(next(iter(refused.values()))))
            except BaseException:
                self._stop.set()
                pool.shutdown(wait=False, cancel_futures=True)
                raise
        return found

    def _judge_once(self, client: httpx2.Client, body: Mapping[str, Any], file: Path) -> Judging:
        """Request one judging and save it."""
        for _try in range(_MALFORMED_TRIES):
            if (judging := parse_judging(self._ask(client, body))) is not None:
                judging.write(file)
                return judging
        return Judging(score=None, reason="the judge gave no usable score")

    def _ask(self, client: httpx2.Client, body: Mapping[str, Any]) -> Any:
        """Content of one reply, after as many tries as needed; None if it has none."""
        retrying = Retrying(
            retry=retry_if_exception_type(_PassingFailure),
            stop=lambda state: state.attempt_number >= _failure(state).tries,
            wait=lambda state: self._backoff(state) if (asked := _failure(state).wait) is None else asked,
            sleep=sleep_using_event(self._stop),  # ends early if another judging failed
            reraise=True,
        )
        try:
            return retrying(self._post, client, body)
        except _PassingFailure as failure:
            raise CraneError(
                f"judge at {self._endpoint.host}: {failure}; gave up after {retrying.statistics['attempt_number']} "
                "tries; all judgings so far are saved, start again to continue"
            ) from failure

    def _post(self, client: httpx2.Client, body: Mapping[str, Any]) -> Any:
        """Send one request and return the content of the reply; None if it has none."""
        if self._stop.is_set():
            raise CraneError("stopped")  # not shown: the failure itself is raised
        try:
            reply = client.post(self._endpoint.url + PATH, json=body)
        except httpx2.ConnectError as error:
            raise _PassingFailure(
                f"cannot be reached ({_short(error)}); is it running?", tries=_CONNECTION_TRIES
            ) from error
        except httpx2.TimeoutException as error:
            raise _PassingFailure(f"gave no answer in {self._timeout:g} s") from error
        except httpx2.RequestError as error:
            raise _PassingFailure(f"broke off ({_short(error)})") from error
        if reply.status_code != httpx2.codes.OK:
            raise self._error_of(reply)
        try:
            return reply.json()["choices"][0]["message"]["content"]
        except (ValueError, KeyError, IndexError, TypeError, RecursionError):
            return None

    def _error_of(self, reply: httpx2.Response) -> Exception:
        """Return the error of a reply with a status other than 200."""
        status, place = reply.status_code, f"judge at {self._endpoint.host}"
        if status in (401, 403):
            return CraneError(f"{place}: refuses the key ({status}); check {KEY}")
        if status in (408, 425, 429) or status >= 500:
            problem = "asks for fewer requests (429)" if status == 429 else f"fails ({status})"
            return _PassingFailure(problem, wait=retry_after(reply.headers.get("retry-after"), now=time.time()))
        text = f"{status}: {' '.join(reply.text.split()).replace(self._endpoint.key, '***')[:160]}"
        hint = f"check {URL} and {MODEL}" if status == 404 else "does it speak the OpenAI chat protocol?"
        message = f"{place}: refuses the request ({text}); {hint}"
        return _AnswerRefused(message, text) if status in _ANSWER_STATUSES else CraneError(message)


def _failure(state: RetryCallState) -> Any:
    return state.outcome.exception() if state.outcome is not None else None


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:100] or type(error).__name__
