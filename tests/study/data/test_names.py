import pytest

from crane_study.data import cldr as names


@pytest.mark.parametrize(
    ("code", "language", "name"),
    [
        ("FR", "en", "France"),
        ("FR", "zh", "法国"),
        ("FR", "vi", "Pháp"),
        ("NL", "en", "the Netherlands"),
        ("US", "en", "the United States"),
        ("BS", "en", "the Bahamas"),
        ("GB", "vi", "Vương quốc Anh"),
        ("HK", "en", None),  # "Hong Kong SAR China"
        ("CC", "en", None),  # brackets
        ("XX", "en", None),
    ],
)
def test_territories(code, language, name):
    assert names.territory(code, language) == name


@pytest.mark.parametrize(
    ("code", "language", "name"),
    [("fr", "en", "French"), ("fr", "zh", "法语"), ("fr", "vi", "tiếng Pháp"), ("xxx", "en", None)],
)
def test_languages(code, language, name):
    assert names.human_language(code, language) == name


def test_other_names():
    assert names.script("Arab", "vi") == "chữ Ả Rập"
    assert names.currency("EUR", "en") == "euro"
    assert names.currency("JPY", "zh") == "日元"
    assert names.currency("QQQ", "en") is None
    assert names.unit("length-kilometer", "en") == "kilometer"
    assert names.unit("mass-kilogram", "zh") == "千克"
    assert names.unit("no-such-unit", "en") is None
    assert names.city("Asia/Tokyo", "zh") == "东京"
    assert names.time_zone("Japan", "en") == "Japan Time"
    assert names.time_zone("Japan", "vi") == "giờ Nhật Bản"
    assert names.time_zone("Nowhere", "en") is None


def test_a_language_without_data():
    with pytest.raises(ValueError, match="no CLDR data for the language 'qqq'"):
        names.locale("qqq")


def test_quantities_have_a_name_in_every_language_or_in_none():
    for kind in ("mass", "energy", "no such class"):
        assert len({names.quantity(kind, language) is None for language in names.LANGUAGES}) == 1
    assert names.quantity("mass", "zh") == "质量"
    entries = [tuple(entry) for entry in names._QUANTITIES.values()]
    assert all(len({entry[i] for entry in entries}) == len(entries) for i in range(3))
