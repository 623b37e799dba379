"""Colours that are told apart by everybody, and names."""

from itertools import combinations

import numpy as np
import pytest
from matplotlib.colors import to_rgb

from crane_study import labels
from crane_study.figures import style

# Viénot, Brettel and Mollon 1999: linear RGB as seen without red and without green cones.
SEEN_AS = {
    "all cones": np.eye(3),
    "protanopia": np.array([[0.11238, 0.88762, 0], [0.11238, 0.88762, 0], [0.00401, -0.00401, 1]]),
    "deuteranopia": np.array([[0.29275, 0.70725, 0], [0.29275, 0.70725, 0], [-0.02234, 0.02234, 1]]),
}


def lab(colour, seen_as):
    """CIELAB of a colour, as seen with the given cones."""
    rgb = np.array(to_rgb(colour))
    linear = np.where(rgb > 0.04045, ((rgb + 0.055) / 1.055) ** 2.4, rgb / 12.92)
    linear = np.clip(seen_as @ linear, 0, 1)
    to_xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    xyz = to_xyz @ linear / np.array([0.95047, 1.0, 1.08883])
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


@pytest.mark.parametrize("cones", SEEN_AS)
@pytest.mark.parametrize(
    "palette",
    [style.LANGUAGE_COLOURS, {name: style.method_colour(name) for name in labels.set_names()}, style.MODEL_COLOURS],
)
def test_colours_are_told_apart(palette, cones):
    for one, other in combinations(palette, 2):
        distance = np.linalg.norm(lab(palette[one], SEEN_AS[cones]) - lab(palette[other], SEEN_AS[cones]))
        assert distance > 15, f"{one} and {other} look alike with {cones}: {distance:.1f}"


def test_no_colour_is_used_for_two_languages():
    colours = style.language_colours(["en", "zh", "vi", "fr", "de", "id", "ja"])
    assert len(set(colours.values())) == 7
    assert colours["vi"] == style.LANGUAGE_COLOURS["vi"]
    assert style.language_colours(["de", "ja", "fr", "id"])["fr"] == colours["fr"]


def test_names():
    names = [labels.method_label(name) for name in labels.set_names()]
    assert len(set(names)) == len(names)
    assert labels.method_label("kurtosis", "published") == "Relevance kurtosis, as published"
    assert labels.method_label("contrast", "0.1") == "Relevance contrast, 10 %"
    assert labels.method_label("none") == "Unmasked"
    assert labels.method_label("new_rule") == "New rule"
    assert list(map(labels.language_name, ("en", "zh", "vi", "xx"))) == ["English", "Chinese", "Vietnamese", "xx"]
    assert labels.budget_label("0.005") == "0.5 %"
    caption = "Share (p < 0.01) of units. Bars: 95 % intervals."
    assert labels.first_sentence(caption) == "Share (p < 0.01) of units"
    assert labels.first_sentence("One only.") == "One only"
    assert labels.ordered_languages(["vi", "fr", "en", "zh", "en"]) == ["en", "zh", "vi", "fr"]
    sets = [("zzz", "0.1"), ("lape", "0.1"), ("lape", "published"), ("contrast", "0.1")]
    ordered = [("contrast", "0.1"), ("lape", "published"), ("lape", "0.1"), ("zzz", "0.1")]
    assert labels.ordered_sets(sets) == ordered


def test_ink_is_readable_and_characters_drawable(monkeypatch):
    assert (style.ink_on("white"), style.ink_on("#30006a")) == ("black", "white")
    assert style.drawable("的货币是欧元，。")
    monkeypatch.setattr(style, "families", lambda: (style.LATIN,))
    assert style.drawable("Đơn vị tiền tệ: người \n")
    assert not style.drawable("欧元")
