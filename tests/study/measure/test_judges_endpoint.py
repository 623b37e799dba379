"""The endpoint judge against a server on loopback: good answers, bad ones, failures, and what is left of them."""

import json
import logging
import re
import socket
import threading
import time
from concurrent.futures import as_completed

import numpy as np
import pandas as pd
import pytest

from crane_lib.errors import CraneError
from crane_study.measure import judge_endpoint as judges_endpoint
from crane_study.measure.judge_endpoint import KEY, MODEL, URL, Endpoint, EndpointJudge, parse_judging, retry_after
from tests.study.measure.stub import judging, reply, slowly, stub_server

SECRET = "secret-key-123"


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch):
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)


def answers(count=3):
    return pd.DataFrame(
        {
            "language": "en",
            "question": range(count),
            "text": [f"Where does town {n} lie?" for n in range(count)],
            "answer": [f"by river {n}" for n in range(count)],
        }
    )


def judge(url, cache, *, key=SECRET, **changes):
    options = {"judgings": 3, "concurrency": 4, "timeout": 5.0, "first_wait": 0.01} | changes
    return EndpointJudge(Endpoint(url, "some-model", key), cache, **options)


def asked_for(body):
    return int(re.search(r"town (\d+)", body["messages"][1]["content"]).group(1))


def cached(folder):
    return sorted(folder.rglob("*.json"))


# --- good answers --------------------------------------------------------------------------------------------


def test_a_score_is_the_mean_of_three_judgings(tmp_path):
    given = {0: iter([2, 3, 4]), 1: iter([10, 10, 10]), 2: iter([1, 1, 2.5])}
    lock = threading.Lock()

    def answer(_number, body):
        with lock:
            return judging(next(given[asked_for(body)]), f"reason {asked_for(body)}")

    with stub_server(answer) as (url, stub):
        found = judge(url, tmp_path).score(answers())
    assert found["score"].tolist() == pytest.approx([3.0, 10.0, 1.5])
    assert found["reason"].tolist() == ["reason 0", "reason 1", "reason 2"]
    assert found["judgings"].tolist() == [3, 3, 3]
    assert found["facts"].isna().all()
    assert len(stub.bodies) == 9
    assert set(stub.paths) == {"/v1/chat/completions"}
    for body in stub.bodies:
        assert (body["model"], body["temperature"]) == ("some-model", 0.1)
        assert body["response_format"] == {"type": "json_object"}
        assert '"score"' in body["messages"][0]["content"]
        assert f"by river {asked_for(body)}" in body["messages"][1]["content"]


def test_equal_answers_to_a_question_are_judged_once(tmp_path):
    with stub_server(lambda _n, body: judging(asked_for(body) + 1)) as (url, stub):
        found = judge(url, tmp_path).score(pd.concat([answers(2)] * 4))
    assert len(stub.bodies) == 2 * 3
    assert found["score"].tolist() == [1.0, 2.0] * 4


def test_a_second_judging_asks_nothing(tmp_path):
    with stub_server(lambda _n, _body: judging(6)) as (url, stub):
        first = judge(url, tmp_path).score(answers())
        asked = len(stub.bodies)
        second = judge(url, tmp_path).score(answers())
        assert len(stub.bodies) == asked == 9
        pd.testing.assert_frame_equal(first, second)
        judge(url, tmp_path, judgings=4).score(answers())
        assert len(stub.bodies) == 12  # only the fourth of each
        EndpointJudge(Endpoint(url, "other-model", SECRET), tmp_path, judgings=1).score(answers())
        assert len(stub.bodies) == 15  # another model is another judge


def test_no_more_requests_at_once_than_allowed(tmp_path):
    with stub_server(slowly(lambda _n, _body: judging(5), 0.05)) as (url, stub):
        judge(url, tmp_path, concurrency=3).score(answers(8))
    assert len(stub.bodies) == 24
    assert stub.most == 3


# --- answers that are none -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ('{"score": 7, "reason": "good"}', (7.0, "good")),
        ('{"score": 1}', (1.0, "")),
        ('```json\n{"score": 9.5, "reason": "fine"}\n```', (9.5, "fine")),
        ('{"score": 11, "reason": "superb"}', None),
        ('{"score": 0, "reason": "bad"}', None),
        ('{"score": "7", "reason": "a text"}', None),
        ('{"score": true, "reason": "a truth"}', None),
        ('{"score": NaN}', None),
        ('{"score": null, "reason": "none"}', None),
        ('{"score": 5, "reason": 5}', None),
        ('{"reason": "no score"}', None),
        ("[7]", None),
        ("Score: 7", None),
        ('{"score": 7', None),
        ("", None),
        (None, None),
    ],
)
def test_parse_judging(content, expected):
    assert parse_judging(content) == expected


def test_a_malformed_reply_is_asked_again(tmp_path):
    seen = {}

    def answer(_number, body):
        town = asked_for(body)
        seen[town] = seen.get(town, 0) + 1
        return judging(8) if seen[town] > 2 else reply("I would say seven.")

    with stub_server(answer) as (url, stub):
        found = judge(url, tmp_path, judgings=1).score(answers(2))
    assert found["score"].tolist() == [8.0, 8.0]
    assert len(stub.bodies) == 6


@pytest.mark.parametrize("bad", [judging(11), reply("eleven"), (200, {}, b"<html>"), (200, {}, b'{"choices": []}')])
def test_what_stays_malformed_is_missing_and_not_invented(tmp_path, bad):
    with stub_server(lambda _n, body: bad if asked_for(body) == 1 else judging(4)) as (url, stub):
        found = judge(url, tmp_path).score(answers())
    assert found["score"].tolist()[::2] == [4.0, 4.0]
    assert np.isnan(found["score"][1])
    assert found["judgings"].tolist() == [3, 0, 3]
    assert found["reason"][1].startswith("missing")
    assert len(stub.bodies) == 6 + 3 * 3
    assert len(cached(tmp_path)) == 6


def test_a_score_is_the_mean_of_the_usable_judgings(tmp_path):
    count = iter(range(100))
    with stub_server(lambda _n, _b: judging(8) if next(count) in (3, 4) else reply("?")) as (url, _stub):
        found = judge(url, tmp_path, concurrency=1).score(answers(1))
    assert (found["score"][0], found["judgings"][0]) == (8.0, 2)


def test_a_judge_that_never_scores_is_an_error(tmp_path):
    with (
        stub_server(lambda _n, _b: reply("no")) as (url, _stub),
        pytest.raises(
            CraneError, match=r"none of 9 replies was a score from 1 to 10; does 'some-model' answer in JSON\?"
        ),
    ):
        judge(url, tmp_path).score(answers())
    assert not cached(tmp_path)


# --- failures that pass --------------------------------------------------------------------------------------


def test_rate_limits_and_server_errors_are_waited_out(tmp_path):
    failing = [(429, {}, b"slow down"), (500, {}, b""), (503, {}, b"busy"), (502, {}, b"")]

    def answer(number, _body):
        return failing[number - 1] if number <= len(failing) else judging(9)

    with stub_server(answer) as (url, stub):
        found = judge(url, tmp_path, judgings=1, concurrency=1).score(answers(1))
    assert found["score"].tolist() == [9.0]
    assert len(stub.bodies) == 5


def test_the_wait_that_a_server_asks_for_is_kept(tmp_path):
    times = []

    def answer(number, _body):
        times.append(time.monotonic())
        return (429, {"Retry_After": "1"}, b"") if number == 1 else judging(9)

    with stub_server(answer) as (url, _stub):
        judge(url, tmp_path, judgings=1, concurrency=1, first_wait=0.001).score(answers(1))
    assert times[1] - times[0] >= 0.95


def test_waits_grow(tmp_path):
    times = []

    def answer(number, _body):
        times.append(time.monotonic())
        return (500, {}, b"") if number < 5 else judging(9)

    with stub_server(answer) as (url, _stub):
        judge(url, tmp_path, judgings=1, concurrency=1, first_wait=0.05).score(answers(1))
    for place, wait in enumerate([0.05, 0.1, 0.2, 0.4]):
        assert times[place + 1] - times[place] >= wait


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, None),
        ("", None),
        ("3", 3.0),
        ("0.5", 0.5),
        ("-1", 0.0),
        ("inf", 600.0),
        ("nan", None),
        ("soon", None),
        ("Thu, 01 Jan 1970 00:00:07 GMT", 5.0),
        ("Thu, 01 Jan 1970 00:00:01 GMT", 0.0),
    ],
)
def test_retry_after(value, expected):
    assert retry_after(value, now=2.0) == expected


def test_a_reply_that_nests_without_end_is_malformed():
    assert parse_judging("[" * 200_000) is None


def test_a_reply_that_cannot_be_unpacked_is_asked_for_again(tmp_path):
    def answer(number, _body):
        return (200, {"Content-Encoding": "gzip"}, b"no gzip") if number == 1 else judging(4)

    with stub_server(answer) as (url, stub):
        found = judge(url, tmp_path, judgings=1).score(answers(1))
    assert found["score"].tolist() == [4.0]
    assert len(stub.bodies) == 2


def test_a_reply_that_comes_too_late_is_asked_for_again(tmp_path):
    def answer(number, _body):
        if number == 1:
            time.sleep(1.0)
        return judging(3)

    with stub_server(answer) as (url, stub):
        found = judge(url, tmp_path, judgings=1, timeout=0.3).score(answers(1))
    assert found["score"].tolist() == [3.0]
    assert len(stub.bodies) == 2


# --- failures that stay --------------------------------------------------------------------------------------


def test_a_server_that_keeps_failing_is_given_up(tmp_path):
    with (
        stub_server(lambda _n, _b: (500, {}, b"")) as (url, stub),
        pytest.raises(CraneError, match=r"judge at 127\.0\.0\.1:\d+: fails \(500\); gave up after 7 tries"),
    ):
        judge(url, tmp_path, judgings=1, concurrency=1).score(answers(1))
    assert len(stub.bodies) == 7


def test_nobody_listens(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
        with pytest.raises(CraneError, match=r"cannot be reached \(.*\); is it running\?; gave up after 3 tries"):
            judge(url, tmp_path).score(answers())


@pytest.mark.parametrize(
    ("status", "message"),
    [
        (403, r"refuses the key \(403\); check CRANE_JUDGE_KEY"),
        (404, r"refuses the request \(404: no model\); check CRANE_JUDGE_URL and CRANE_JUDGE_MODEL"),
        (400, r"refuses the request \(400: no model\); does it speak the OpenAI chat protocol\?"),
        (301, r"refuses the request \(301"),
    ],
)
def test_a_refusal_is_not_tried_again(tmp_path, status, message):
    with stub_server(lambda _n, _b: (status, {}, b"no model")) as (url, stub), pytest.raises(CraneError, match=message):
        judge(url, tmp_path, judgings=1, concurrency=1).score(answers(1))
    assert len(stub.bodies) == 1


def test_a_wrong_key(tmp_path):
    with (
        stub_server(lambda _n, _b: judging(5)) as (url, _stub),
        pytest.raises(CraneError, match=r"refuses the key \(401\); check CRANE_JUDGE_KEY$") as caught,
    ):
        judge(url, tmp_path, key="wrong-key-987").score(answers())
    assert "wrong-key-987" not in str(caught.value)
    assert not cached(tmp_path)


# --- answers that are refused --------------------------------------------------------------------------------


def refusing(*towns, status=400, score=6):
    """A judge that takes no answer about these towns."""

    def answer(_number, body):
        return (status, {}, b"content filter") if asked_for(body) in towns else judging(score)

    return answer


@pytest.mark.parametrize("status", [400, 413, 422])
@pytest.mark.parametrize("refused", [0, 1, 2])
def test_one_refused_answer_is_missing_and_not_asked_about_again(tmp_path, status, refused):
    with stub_server(refusing(refused, status=status)) as (url, stub):
        found = judge(url, tmp_path, concurrency=1).score(answers())
        assert len(stub.bodies) == 9
        assert found["judgings"].tolist() == [0 if town == refused else 3 for town in range(3)]
        assert np.isnan(found["score"][refused])
        assert found["score"].drop(refused).tolist() == [6.0, 6.0]
        assert found["reason"][refused] == f"missing: refused ({status}: content filter)"
        pd.testing.assert_frame_equal(judge(url, tmp_path).score(answers()), found)
        assert len(stub.bodies) == 9
    assert len(cached(tmp_path)) == 9


def test_a_refused_judging_leaves_the_others_of_its_answer(tmp_path):
    with stub_server(lambda n, _b: (400, {}, b"filter") if n == 2 else judging(6)) as (url, _stub):
        found = judge(url, tmp_path, concurrency=1).score(answers(1))
    assert (found["score"][0], found["judgings"][0]) == (6.0, 2)


def test_a_judging_of_an_earlier_run_shows_that_the_judge_works(tmp_path):
    with stub_server(refusing(1)) as (url, stub):
        judge(url, tmp_path, judgings=1).score(answers(1))
        found = judge(url, tmp_path, judgings=1).score(answers(2))
        assert found["judgings"].tolist() == [1, 0]
        assert len(cached(tmp_path)) == 2
        judge(url, tmp_path, judgings=1).score(answers(2))
    assert len(stub.bodies) == 2


def test_where_every_answer_is_refused_the_fault_is_not_theirs(tmp_path):
    message = r"refuses the request \(422: content filter\); does it speak the OpenAI chat protocol\?"
    with stub_server(refusing(*range(20), status=422)) as (url, stub):
        with pytest.raises(CraneError, match=message):
            judge(url, tmp_path, concurrency=1).score(answers(20))
        assert len(stub.bodies) == 4 * 3 + 1  # the first of the fifth answer
        with pytest.raises(CraneError, match=message):
            judge(url, tmp_path).score(answers(3))
    assert not cached(tmp_path)


def test_first_answers_refused_and_a_later_one_judged(tmp_path):
    with stub_server(refusing(0, 1, 2, 3)) as (url, stub):
        found = judge(url, tmp_path).score(answers(6))
    assert found["judgings"].tolist() == [0, 0, 0, 0, 3, 3]
    assert len(stub.bodies) == len(cached(tmp_path)) == 18


def test_a_damaged_refusal_is_asked_for_again(tmp_path):
    with stub_server(refusing(0)) as (url, stub):
        found = judge(url, tmp_path, judgings=1).score(answers(2))
        for file in cached(tmp_path):
            if json.loads(file.read_text())["refused"]:
                file.write_text(json.dumps({"schema": "crane.judging/1", "refused": True, "reason": None}))
        pd.testing.assert_frame_equal(judge(url, tmp_path, judgings=1).score(answers(2)), found)
    assert len(stub.bodies) == 3


# --- interruption and secrecy --------------------------------------------------------------------------------


def goes_on(url, stub, cache, *, done):
    """Judge again: only what is not kept is asked for."""
    assert len(cached(cache)) == done
    before = len(stub.bodies)
    found = judge(url, cache).score(answers())
    assert len(stub.bodies) - before == 9 - done
    assert found["score"].tolist() == [6.0] * 3


def test_what_was_judged_before_a_failure_is_kept(tmp_path):
    with stub_server(lambda n, _b: (401, {}, b"") if n == 6 else judging(6)) as (url, stub):
        with pytest.raises(CraneError, match="refuses the key"):
            judge(url, tmp_path, concurrency=1).score(answers())
        goes_on(url, stub, tmp_path, done=5)


def test_what_was_judged_before_a_users_interruption_is_kept(tmp_path, monkeypatch):
    def interrupted(futures):
        completed = as_completed(futures)
        yield next(completed)
        yield next(completed)
        raise KeyboardInterrupt

    with stub_server(slowly(lambda _n, _b: judging(6), 0.2)) as (url, stub):
        monkeypatch.setattr(judges_endpoint, "as_completed", interrupted)
        with pytest.raises(KeyboardInterrupt):
            judge(url, tmp_path, concurrency=1).score(answers())
        monkeypatch.setattr(judges_endpoint, "as_completed", as_completed)
        done = len(cached(tmp_path))
        assert 2 <= done < 9  # those before, and the one on its way
        goes_on(url, stub, tmp_path, done=done)


def test_a_damaged_cache_entry_is_asked_for_again(tmp_path):
    with stub_server(lambda _n, _b: judging(6)) as (url, stub):
        judge(url, tmp_path).score(answers())
        files = cached(tmp_path)
        files[0].write_text("{")
        files[1].write_text(json.dumps({"schema": "crane.judging/1", "score": 40, "reason": ""}))
        files[2].write_text(json.dumps({"schema": "another", "score": 4, "reason": ""}))
        found = judge(url, tmp_path).score(answers())
    assert len(stub.bodies) == 9 + 3
    assert found["score"].tolist() == [6.0] * 3


def test_the_key_is_in_no_file_and_no_message(tmp_path, caplog, capfd):
    caplog.set_level(logging.DEBUG)
    endpoint = Endpoint("http://127.0.0.1:1/v1", "some-model", SECRET)
    assert SECRET not in repr(endpoint)
    assert SECRET not in str(endpoint)
    with stub_server(lambda n, _b: judging(6) if n < 4 else (400, {}, f"bad request by {SECRET}".encode())) as (
        url,
        _s,
    ):
        found = judge(url, tmp_path / "a", concurrency=1).score(answers())
        with pytest.raises(CraneError) as caught:
            judge(url, tmp_path / "b", concurrency=1).score(answers())
    said = [*found["reason"], str(caught.value)]
    assert all("bad request by ***" in line for line in said[1:])
    assert len(cached(tmp_path)) == 9
    texts = [path.read_text() for path in cached(tmp_path)] + said + [caplog.text, *capfd.readouterr()]
    assert not any(SECRET in text for text in texts)


# --- environment ---------------------------------------------------------------------------------------------

GOOD = {URL: "https://judge.example/v1", MODEL: "m", KEY: "k"}


def test_the_environment_names_the_endpoint():
    endpoint = Endpoint.from_environment(GOOD)
    assert (endpoint.url, endpoint.model, endpoint.key, endpoint.host) == (
        "https://judge.example/v1",
        "m",
        "k",
        "judge.example",
    )
    whole = Endpoint.from_environment(GOOD | {URL: "https://judge.example/v1/chat/completions/"})
    assert whole.url == endpoint.url


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({KEY: ""}, "judge: CRANE_JUDGE_KEY is not set; set CRANE_JUDGE_URL, CRANE_JUDGE_MODEL and CRANE_JUDGE_KEY"),
        ({URL: "", KEY: ""}, "judge: CRANE_JUDGE_URL is not set"),
        ({URL: "judge.example/v1"}, "CRANE_JUDGE_URL is not an address; expected one like https://host/v1"),
        ({URL: "ftp://judge.example"}, "CRANE_JUDGE_URL is not an address"),
        ({URL: "https://"}, "CRANE_JUDGE_URL is not an address"),
        (
            {URL: "https://me:word@judge.example/v1"},
            "holds a name, password or query; put the key into CRANE_JUDGE_KEY",
        ),
        ({URL: "https://judge.example/v1?key=abc"}, "holds a name, password or query"),
        ({KEY: "k\n"}, "CRANE_JUDGE_KEY has a space at an end, a line break"),
        ({KEY: "schlüssel"}, "CRANE_JUDGE_KEY has a space at an end, a line break or another character"),
    ],
)
def test_what_is_wrong_with_the_environment_is_said(changes, message):
    with pytest.raises(CraneError, match=re.escape(message)) as caught:
        Endpoint.from_environment(GOOD | changes)
    assert "word" not in str(caught.value).replace("password", "")
    assert "schlüssel" not in str(caught.value)
