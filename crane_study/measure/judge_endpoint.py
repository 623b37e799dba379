"""A language model behind an OpenAI-compatible address as judge.

Address, model and key come from the environment; the key is sent in the header of a request and stored nowhere. Before
any answer, a plain one is judged in one form of request after another until the server takes one: not all know a schema
for the reply, a system role or a temperature. Every judging is saved on disk under the hash of what was asked, so that
an interrupted run continues where it stopped and a repeated one sends nothing. Refusals of a single answer are saved
too, once the server has judged another answer.
"""

from __future__ import annotations

import email.utils
import logging
import math
import re
import threading
import time
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import httpx2
import pandas as pd
from tenacity import RetryCallState, Retrying, retry_if_exception_type, sleep_using_event, wait_exponential

from crane_lib.errors import CraneError
from crane_lib.files import fingerprint
from crane_study.measure.judge_offline import PARTS
from crane_study.measure.judgings import (
    FORMS,
    KEY,
    MODEL,
    PATH,
    SCHEMA,
    URL,
    Endpoint,
    Form,
    Judging,
    parse_judging,
    read_judging,
)
from crane_study.progress import progress

PLAIN = ("What is two plus two?", "Four.")  # question and answer that the server is tried with
_MALFORMED_TRIES = 3  # replies without a usable score, before a judging counts as missing
_CONNECTION_TRIES = 3  # if no server listens, waiting longer rarely helps
_TRIES = 7  # on rate limits, server errors and timeouts
_LONGEST_WAIT = 60.0  # seconds between tries, unless the server asks for a wait
_LONGEST_ASKED_WAIT = 600.0  # seconds that a server may ask to wait
_ANSWER_STATUSES = (400, 413, 422)  # may be caused by the answer itself: forbidden content, or too long
_HOPELESS_ANSWERS = 5  # different answers without a score and none with one: the answers are not the cause
_PASSING_WORDS = re.compile(r"rate.?limit|too many|overload|busy|capacity|timeout|timed out|internal", re.IGNORECASE)

logging.getLogger("httpx2").setLevel(logging.WARNING)

_Key = tuple[str, str, int]  # question, answer and number of the judging


def missing_judgings(items: pd.DataFrame, *, wanted: int) -> str:
    """Say how many answers (score, reason, judgings) were judged fewer than `wanted` times; empty if none was."""
    few, none = items["judgings"] < wanted, items["judgings"] == 0
    if not few.any():
        return ""
    reasons = items["reason"][none].str.removeprefix("missing: ")
    often = f"; most often: {reasons.mode().iloc[0]}" if len(reasons) else ""
    return f"{few.sum()} of {len(items)} answers have fewer than {wanted} judgings, {none.sum()} of them none{often}"


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


class _NoScore(Exception):
    """A reply has no usable score; the message says what was seen."""


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
        self._form: Form | None = None

    def check(self) -> None:
        """Have a plain answer judged, in one form of request after another until the server takes one.

        Raises
        ------
        CraneError : the server cannot be reached, or gives no score in any form
        """
        with self._client() as client:
            self._form = self._first_form(client)

    def _first_form(self, client: httpx2.Client) -> Form:
        self._stop.clear()
        problem = ""
        for form in FORMS:
            try:
                self._ask(client, (*PLAIN, 0), form, tries=1)
            except _AnswerRefused as refused:
                problem = str(refused)
            except _NoScore as seen:
                problem = f"judge at {self._endpoint.host}: gives no score from 1 to 10 ({seen})"
            else:
                return form
        raise CraneError(f"{problem}; {len(FORMS)} forms of request were tried")

    def _client(self) -> httpx2.Client:
        headers = {"Authorization": f"Bearer {self._endpoint.key}"}
        trusted = not self._endpoint.is_local
        try:
            return httpx2.Client(headers=headers, timeout=self._timeout, follow_redirects=False, trust_env=trusted)
        except (ValueError, ImportError, OSError) as error:
            raise CraneError(
                f"judge at {self._endpoint.host}: a proxy or certificate that the environment names cannot be used; "
                "correct ALL_PROXY, HTTPS_PROXY or SSL_CERT_FILE, or name the host in NO_PROXY"
            ) from error

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
            raise self._hopeless(found.values())
        return pd.DataFrame(rows, index=answers.index)

    def _hopeless(self, judgings: Iterable[Judging]) -> CraneError:
        seen = [judging.reason for judging in judgings]
        return CraneError(
            f"judge at {self._endpoint.host}: none of {len(seen)} judgings by {self._endpoint.model!r} is a score from "
            f"1 to 10 (the last: {seen[-1]})"
        )

    def _file(self, body: Mapping[str, Any], number: int) -> Path:
        name = fingerprint({"schema": SCHEMA, "address": self._endpoint.url, "body": body, "number": number})
        return self._cache / name[:2] / f"{name}.json"

    def _judge(self, wanted: list[_Key]) -> dict[_Key, Judging]:
        """Read saved judgings and request the others."""
        files = {key: self._file(self._endpoint.request(*key[:2]), key[2]) for key in wanted}
        found = {key: saved for key, file in files.items() if (saved := read_judging(file)) is not None}
        works = any(judging.score is not None for judging in found.values())
        missing = [key for key in wanted if key not in found]
        failed: dict[_Key, Judging] = {}
        refused: set[_Key] = set()  # not saved until a score shows that it is not the request that is wrong
        with (
            progress("Judging answers", len(wanted)) as bar,
            self._client() as client,
            ThreadPoolExecutor(self._concurrency) as pool,
        ):
            bar.skip(len(found))
            if missing and self._form is None:
                self._form = self._first_form(client)
            self._stop.clear()
            futures = {pool.submit(self._ask, client, key, self._form or FORMS[0]): key for key in missing}
            try:
                for future in as_completed(futures):
                    key = futures[future]
                    try:
                        found[key] = future.result()
                        found[key].write(files[key])
                        works = True
                    except _AnswerRefused as failure:
                        refused.add(key)
                        found[key] = failed[key] = Judging(score=None, reason=f"refused ({failure.reply})")
                    except _NoScore as seen:
                        found[key] = failed[key] = Judging(score=None, reason=f"no usable score ({seen})")
                    if works:
                        for each in refused:
                            found[each].write(files[each])
                        refused.clear()
                    elif len({key[:2] for key in failed}) >= _HOPELESS_ANSWERS:
                        raise self._hopeless(failed.values())
                    bar.advance()
            except BaseException:
                self._stop.set()
                pool.shutdown(wait=False, cancel_futures=True)
                raise
        return found

    def _ask(self, client: httpx2.Client, key: _Key, form: Form, *, tries: int = _MALFORMED_TRIES) -> Judging:
        """Request one judging until a reply has a score."""
        question, answer, _number = key
        body, seen = self._endpoint.request(question, answer, form), ""
        for _try in range(tries):
            content, seen = self._reply(client, body)
            if (judging := parse_judging(content, answer=answer)) is not None:
                return judging
        raise _NoScore(seen)

    def _reply(self, client: httpx2.Client, body: Mapping[str, Any]) -> tuple[Any, str]:
        """Content of one reply, after as many tries as needed, and its beginning or why there is none."""
        retrying = Retrying(
            retry=retry_if_exception_type(_PassingFailure),
            stop=lambda state: state.attempt_number >= _failure(state).tries,
            wait=lambda state: self._backoff(state) if (asked := _failure(state).wait) is None else asked,
            sleep=sleep_using_event(self._stop),  # ends early if another judging failed
            reraise=True,
        )
        try:
            content, why = retrying(self._post, client, body)
        except _PassingFailure as failure:
            raise CraneError(
                f"judge at {self._endpoint.host}: {failure}; gave up after {retrying.statistics['attempt_number']} "
                "tries; all judgings so far are saved, start again to continue"
            ) from failure
        return content, self._shown(why)

    def _shown(self, text: str) -> str:
        """The beginning of a server's text in one line, without the key."""
        return " ".join(text.split()).replace(self._endpoint.key, "***")[:160]

    def _post(self, client: httpx2.Client, body: Mapping[str, Any]) -> tuple[Any, str]:
        """Send one request and return the content of the reply, and its beginning or why there is none."""
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
            raise self._error_of(reply.status_code, reply.text, reply.headers.get("retry-after"))
        try:
            given = reply.json()
            problem = given.get("error") if isinstance(given, dict) else None
            if not problem:
                return _content(given["choices"][0])
        except (ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError):
            return None, f"no reply of a chat: {reply.text[:400]}"
        code = problem.get("code") if isinstance(problem, dict) else None
        if str(code).isascii() and str(code).isdigit():
            raise self._error_of(int(str(code)), reply.text, reply.headers.get("retry-after"))
        raise self._error_of(503 if _PASSING_WORDS.search(reply.text) else 400, reply.text, None)

    def _error_of(self, status: int, reply: str, wait: str | None) -> Exception:
        """Return the error of a status other than 200, of a reply or named in it."""
        place = f"judge at {self._endpoint.host}"
        if status in (401, 403):
            return CraneError(f"{place}: refuses the key ({status}); check {KEY}")
        if status in (408, 425, 429) or status >= 500:
            problem = "asks for fewer requests (429)" if status == 429 else f"fails ({status})"
            return _PassingFailure(problem, wait=retry_after(wait, now=time.time()))
        text = f"{status}: {self._shown(reply)}"
        hint = f"check {URL} and {MODEL}" if status == 404 else "does it speak the OpenAI chat protocol?"
        message = f"{place}: refuses the request ({text}); {hint}"
        return _AnswerRefused(message, text) if status in _ANSWER_STATUSES else CraneError(message)


def _content(choice: Mapping[str, Any]) -> tuple[Any, str]:
    """Content of a choice, and its beginning or why there is none."""
    message = choice["message"]
    content, cut = message["content"], choice.get("finish_reason") == "length"
    if isinstance(content, str) and content.strip():
        return content, f"{'cut off at the limit of tokens: ' if cut else ''}{content[:400]}"
    if message.get("refusal"):
        return None, f"the judge refuses: {message['refusal']}"
    thoughts = message.get("reasoning_content") or message.get("reasoning")
    if cut or thoughts:
        where = "reasoning" if thoughts else "something else, such as reasoning"
        return None, f"no content: tokens went into {where}; raise the server's limit of tokens or let it reason less"
    return None, "no content"


def _failure(state: RetryCallState) -> Any:
    return state.outcome.exception() if state.outcome is not None else None


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:100] or type(error).__name__
