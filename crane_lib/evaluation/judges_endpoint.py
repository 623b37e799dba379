"""A language model behind an OpenAI-compatible address as judge.

Address, model and key come from the environment; the key goes into a request's header and nowhere else. Every judging
is kept on disk under the hash of all that was asked, so that a judging that was interrupted goes on where it stopped
and one that is repeated asks nothing. That goes for refusals of a single answer, too, once it is known that the server
judges others.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import httpx2
import pandas as pd

from crane_lib.errors import CraneError
from crane_lib.evaluation.judges import PARTS
from crane_lib.evaluation.judges_kept import SCHEMA, Judging, Refusals, keep, read_kept
from crane_lib.evaluation.judges_protocol import (
    KEY,
    MODEL,
    PATH,
    URL,
    Endpoint,
    content_of,
    messages,
    parse_judging,
    retry_after,
)
from crane_lib.files import fingerprint
from crane_lib.progress import progress

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
