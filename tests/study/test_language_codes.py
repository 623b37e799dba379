"""Codes of languages: those of published data sets are known as they are, misspelt ones are refused."""

import re
from pathlib import Path

import lm_eval
import pytest

from crane_lib.errors import CraneError
from crane_study.labels import language_name
from crane_study.language_codes import check_different, code_of, language_key


def test_all_codes_of_belebele_are_known_as_they_are_and_different():
    folder = Path(lm_eval.__file__).parent / "tasks" / "belebele"
    codes = [found[1] for path in folder.glob("*.yaml") if (found := re.fullmatch(r"belebele_(\w+_\w+)", path.stem))]
    assert len(codes) == 122
    assert [language_key(code) for code in codes] == codes
    assert all(code_of(code) for code in codes)
    check_different(codes)


@pytest.mark.parametrize(
    ("key", "expected", "name"),
    [
        ("vi", "vi", "Vietnamese"),
        ("vie_Latn", "vie_Latn", "Vietnamese"),
        ("zh_hans ", "zh_Hans", "Chinese"),
        ("ZHO-Hans", "zho-Hans", "Chinese"),
        ("zho_Hant", "zho_Hant", "Chinese (Traditional)"),
        ("zh-hant-tw", "zh-Hant-TW", "Chinese (Traditional, Taiwan)"),
        ("cmn_Hani", "cmn_Hani", "Chinese"),
        ("twi_Latn", "twi_Latn", "Twi"),
        ("arb_Latn", "arb_Latn", "Arabic (Latin)"),
        ("pt-BR", "pt-BR", "Portuguese (Brazil)"),
        ("news", "news", "news"),
        ("vi_news", "vi_news", "vi_news"),
        ("group1.a", "group1.a", "group1.a"),
    ],
)
def test_keys_are_written_in_one_letter_case_and_named_in_english(key, expected, name):
    assert language_key(key) == expected
    assert language_name(expected) == name


@pytest.mark.parametrize(
    ("key", "words"),
    [
        ("zh_Hnas", "no script is called Hnas; did you mean zh_Hans?"),
        ("vie_Lat", "did you mean vie_Latn?"),
        ("rus_cryl", "did you mean rus_Cyrl?"),
        ("vei_Latn", "no language has the code vei"),
        ("a/b", "use letters, digits"),
        (" ", "use letters, digits"),
    ],
)
def test_misspelt_keys_are_refused(key, words):
    with pytest.raises(CraneError, match=re.escape(words)):
        language_key(key)


@pytest.mark.parametrize("pair", [("zh", "zho_Hans"), ("zh", "cmn_Hani"), ("vi", "vie_Latn"), ("News", "news")])
def test_two_codes_of_one_language_are_refused(pair):
    with pytest.raises(CraneError, match=f"languages {pair[0]!r} and {pair[1]!r} are the same"):
        check_different(["en", *pair])


@pytest.mark.parametrize("pair", [("zh", "zho_Hant"), ("zh", "yue_Hant"), ("en", "en-GB"), ("ar", "arb_Latn")])
def test_scripts_and_territories_are_languages_of_their_own(pair):
    check_different(pair)
