"""Names and order of languages, methods, budgets, metrics and models, in figures, tables and reports alike."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

import babel
from langcodes import Language

from crane_lib.methods import METHODS
from crane_study.language_codes import code_of, meant

LANGUAGES = ("en", "zh", "vi")  # of the paper, in its order
SET_LABELS = {  # sets that no method selects
    "none": "Unmasked",
    "everything": "Everything off",
    "lape_list": "LAPE (published list)",
    "random_like_contrast": "Random (like contrast)",
    "random_like_kurtosis": "Random (like kurtosis)",
    "random_like_lape": "Random (like LAPE)",
    "random_like_released": "Random (released code)",
    "random_global": "Random (global)",
    "random_full": "Random (any number)",
}
STEERED_LABELS = {"unsteered": "Not steered", "asked": "Asked in the wanted language"}  # models without a set
BENCHMARK_LABELS = {"mmlu": "MMLU", "ceval": "C-Eval", "belebele": "Belebele"}
MODEL_LABELS = {"base": "Base model", "chat": "Chat model"}
METRIC_LABELS = {
    "nll": "NLL (nats per token)",
    "perplexity": "Perplexity",
    "token_probability": "Token probability",
    "accuracy": "Accuracy",
    "judge_score": "Judge score (1 to 10)",
    "langspec_f1": "LangSpec-F1",
}


_named: dict[str, str] = {}  # names by code, in order, of the study of this process


def name_languages(names: Mapping[str, str]) -> None:
    """Use a profile's names of languages, and their order, from here on in this process."""
    _named.clear()
    _named.update({code: _english_name(code) if name == code else name for code, name in names.items()})


def is_named(code: str) -> bool:
    """Return whether the profile names a language of this code."""
    return code in _named


def set_names() -> list[str]:
    """Names of all methods and other sets, in the order of tables and figures."""
    return ["none", *METHODS, *(name for name in SET_LABELS if name != "none")]


def language_name(code: str) -> str:
    """Name of a language code: the profile's, else the English one, else the code itself."""
    return _named.get(code) or _english_name(code)


def _english_name(code: str) -> str:
    """English name of a language code (``vi``, ``vie_Latn``), or the code itself if it has none.

    The script is named where it is not the usual one: ``Chinese (Traditional Han)``.
    """
    given = code_of(code)
    if given is None:
        return code
    english, language = babel.Locale("en"), str(given.prefer_macrolanguage().language)
    name = english.languages.get(str(given.language)) or english.languages.get(language)
    differs = given.script and meant(given).script != meant(Language.get(language)).script
    rest = [str(english.scripts.get(given.script, given.script))] if differs else []
    rest += [str(english.territories.get(given.territory, given.territory))] if given.territory else []
    return str(name) + (f" ({', '.join(rest)})" if rest else "") if name else code


def budget_label(budget: str) -> str:
    """A budget in words: as published, any number, as many neurons as kurtosis, or a percentage."""
    words = {"": "", "published": "as published", "any": "any number", "as_kurtosis": "as many as kurtosis"}
    if budget in words:
        return words[budget]
    if budget.startswith("rows-"):
        return f"{float(budget.removeprefix('rows-')) * 100:g} % of the rows"
    try:
        return f"{float(budget) * 100:g} %"
    except ValueError:
        return budget


def method_label(method: str, budget: str = "") -> str:
    """Name of a method, with its budget where one is given."""
    if method in METHODS:
        name = METHODS[method].label
    else:
        name = {**SET_LABELS, **STEERED_LABELS}.get(method) or method.replace("_", " ").capitalize()
    return f"{name}, {budget_label(budget)}" if budget else name


def ordered_languages(codes: Iterable[str]) -> list[str]:
    """Languages without duplicates: those of the profile in its order, those of the paper in its, then by code."""
    known = list(dict.fromkeys([*_named, *LANGUAGES]))
    return sorted(set(codes), key=lambda code: (known.index(code) if code in known else len(known), code))


def ordered_sets(pairs: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """Pairs of method and budget without duplicates: methods in the order of `set_names`, "published" first."""
    known = set_names()
    return sorted(
        set(pairs),
        key=lambda pair: (known.index(pair[0]) if pair[0] in known else len(known), pair[1] != "published", pair),
    )


def first_sentence(caption: str) -> str:
    """The first sentence of a caption, without its full stop."""
    return re.split(r"\. (?=[A-Z])", caption, maxsplit=1)[0].strip().rstrip(".")
