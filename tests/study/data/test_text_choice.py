"""Texts are chosen from a stream: copies, near copies and short texts are left out, samples are uniform."""

import random
import tracemalloc
import unicodedata
from collections import Counter

import numpy as np
import pytest

from crane_lib.errors import CraneError
from crane_study.data.text_choice import CorpusOptions, choose_texts, near_copy, shingles
from tests.small import TEXTS

CHINESE = "他们在城市里建了一座新的桥梁,并且打算明年再建一座,因为河上的旧桥已经不能承受越来越多的车辆和行人。"


def chosen(texts, **options):
    return choose_texts(texts, CorpusOptions(**options))


def test_what_is_left_out_is_counted():
    texts = ["Hà Nội", " ", "b", unicodedata.normalize("NFD", "Hà Nội"), "", "Huế", "b", "Huế"]
    found = chosen(texts, min_length=2)
    assert found.texts == ["Hà Nội", "Huế"]
    assert found.counts == {"read": 8, "empty": 2, "copies": 3, "short": 1, "near_copies": 0}
    assert chosen([unicodedata.normalize("NFD", "Huế")], min_length=4).texts == []  # three letters in every form


def test_the_first_ones_are_counted_after_what_is_left_out_and_no_more_are_read():
    read = []
    stream = (read.append(n) or f"text {n // 2}" for n in range(1000))
    assert chosen(stream, skip=2, documents=3).texts == ["text 2", "text 3", "text 4"]
    assert len(read) == 9


def test_every_set_of_texts_has_the_same_chance():
    texts, trials = [str(n) for n in range(6)], 3000
    found = Counter(tuple(chosen(texts, sample_texts=3, random_seed=seed).texts) for seed in range(trials))
    assert len(found) == 20
    assert all(list(one) == sorted(one) for one in found)
    expected, spread = trials / 20, np.sqrt(trials / 20 * (1 - 1 / 20))
    assert all(abs(count - expected) < 4.5 * spread for count in found.values())


def test_a_sample_holds_no_more_texts_than_it_draws():
    def peak(count):
        stream = (f"{n:1000}" for n in range(count))
        tracemalloc.start()
        found = chosen(stream, documents=count, sample_texts=5)
        _now, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert len(found.texts) == 5
        return most

    assert peak(2000) < peak(100) + 2000 * 200  # a hash of each text; the texts would be 2 MB


def test_parallel_texts_stay_together_where_one_language_has_lost_some():
    kept = [f"text {n}" for n in range(40)]
    lost = ["" if n % 10 == 0 else f"văn bản {n}" for n in range(40)]
    first, second = ({text.split()[-1] for text in chosen(texts, sample_texts=10).texts} for texts in (kept, lost))
    assert len(first & second) >= 10 - len({n for n in first if int(n) % 10 == 0})
    assert first != {text.split()[-1] for text in chosen(kept, sample_texts=10, random_seed=1).texts}


def exact_index(first, second):
    """Jaccard index of the shingles, without hashes."""
    first, second = shingles(first), shingles(second)
    return len(first & second) / len(first | second)


@pytest.mark.parametrize("text", [CHINESE, TEXTS["vi"][0] * 2])
def test_near_copies_are_those_that_share_their_shingles(text):
    changed = text[:20] + "x" + text[21:]
    other = "".join(random.Random(0).sample(text, len(text)))
    assert exact_index(text, changed) > 0.75 > 0.3 > exact_index(text, other)
    found = chosen([text, changed, other, text.upper() + " "], near_copies=0.7)
    assert found.texts == [text, other]
    assert found.counts["near_copies"] == 2
    assert chosen([text, changed, other], near_copies=0.99).texts == [text, changed, other]


def test_the_share_is_that_of_a_slow_comparison():
    generator = random.Random(0)
    words = ["".join(generator.choices("abcdefghij", k=6)) for _ in range(400)]
    texts = []
    for _ in range(30):
        base = generator.choices(words, k=60)
        texts += [
            " ".join(generator.choice(words) if generator.random() < rate else w for w in base)
            for rate in (0, 0.03, 0.3)
        ]
    is_near, wrong, kept = near_copy(0.7), 0, []
    for text in texts:
        largest = max((exact_index(text, other) for other in kept), default=0.0)
        found = is_near(text)
        if abs(largest - 0.7) > 0.15:  # three standard errors of the estimate
            wrong += found != (largest > 0.7)
        if not found:
            kept.append(text)
    assert wrong == 0
    assert 30 < len(kept) < 90


def test_equal_seeds_give_equal_texts_and_a_wrong_share_is_refused():
    texts = [CHINESE[n:] + CHINESE[:n] for n in range(30)]
    assert chosen(texts, near_copies=0.8, sample_texts=4) == chosen(texts, near_copies=0.8, sample_texts=4)
    with pytest.raises(CraneError, match="expected a share above 0 and at most 1"):
        near_copy(1.5)
    assert chosen(["abcdefg", "ABCDEFG", "x"], near_copies=1.0).texts == ["abcdefg", "x"]
