"""Made-up results of a study: every frame and array that the figures, tables and claims read."""

from __future__ import annotations

import numpy as np
import pandas as pd

from crane_lib.neurons import NeuronSet
from crane_study.measure.rows import COLUMNS, MASK, MEASURES, langspec_of
from crane_study.uncertainty.bootstrap import Resampled

LANGUAGES = ("en", "zh", "vi")
NLL = {"base": {"en": 0.69, "zh": 1.03, "vi": 0.53}, "chat": {"en": 0.81, "zh": 1.2, "vi": 0.66}}
ACCURACY = {"base": {"en": 0.48, "zh": 0.93, "vi": 0.73}, "chat": {"en": 0.52, "zh": 0.9, "vi": 0.7}}
METHODS = {
    ("kurtosis", "published"): (0.05, 0.04, 0.08),
    ("kurtosis", "0.1"): (0.06, 0.03, 0.1),
    ("lape", "published"): (0.004, 0.001, 0.01),
    ("lape", "0.1"): (0.1, 0.05, 0.1),
    ("contrast", "0.1"): (1.4, 0.03, 0.1),
    ("activation_contrast", "0.1"): (0.05, 0.03, 0.1),
    ("gradient_contrast", "0.1"): (0.4, 0.08, 0.1),
    ("random_like_contrast", "0.1"): (0.03, 0.028, 0.1),
    ("random_like_kurtosis", "published"): (0.02, 0.018, 0.08),
}
DRAWN = [("kurtosis", "published"), ("lape", "0.1"), ("contrast", "0.1"), ("random_like_contrast", "0.1")]
FEW_METHODS = {pair: METHODS[pair] for pair in DRAWN}  # enough for a picture
DRAWS = 5


def make_rows(methods=None, *, models=("base", "chat"), seed=0) -> pd.DataFrame:
    """Tidy rows in which a method's mask raises the NLL by (own, others); accuracy follows with a tenth of it."""
    generator = np.random.default_rng(seed)
    records = []

    def add(model, selected_on, method, budget, masked, evaluated, rise, draw, share):
        nll = NLL[model][evaluated] + rise
        accuracy = ACCURACY[model][evaluated] * (1 - min(0.9, 0.3 * max(rise, 0.0)))
        common = ("mini", model, selected_on, method, budget, masked, evaluated)
        for task, metric, value, n in (
            ("perplexity", "nll", nll, 4000),
            ("perplexity", "perplexity", np.exp(nll), 4000),
            ("perplexity", "token_probability", np.exp(-nll), 4000),
            ("nlu", "accuracy", accuracy, 336),
        ):
            records.append((*common, task, metric, float(value), n, draw, share))

    for model in models:
        for language in LANGUAGES:
            add(model, "", "none", "", "", language, 0.0, -1, 0.0)
        for selected_on in ("base",) if model == "base" else ("base", "chat"):
            for (method, budget), (own, other, share) in (methods or METHODS).items():
                random = method.startswith("random")
                for draw in range(DRAWS) if random else [-1]:
                    for masked in LANGUAGES:
                        for evaluated in LANGUAGES:
                            rise = own if masked == evaluated else other
                            rise *= generator.uniform(0.6, 1.4) if random else 1 + 0.05 * LANGUAGES.index(evaluated)
                            rise -= 0.02 * (random and draw == 0 and evaluated == "vi")
                            add(model, selected_on, method, budget, masked, evaluated, rise, draw, share)
    return pd.DataFrame(records, columns=list(COLUMNS))


def make_resampled(rows: pd.DataFrame, *, error=0.01, seed=0) -> dict[tuple[str, str], Resampled]:
    """Scores of every model and measure, whose resamples differ by a relative error."""
    generator, found = np.random.default_rng(seed), {}
    for (model, metric), part in rows.groupby(["model", "metric"], sort=False):
        if metric not in MEASURES or not len(part):
            continue
        table = part.set_index([*MASK, "evaluation_language"])["value"].unstack()  # noqa: PD010
        masks = table.index.to_frame(index=False)
        bare = (masks["method"] == "none").to_numpy()
        values = table.to_numpy()
        draws = values * (1 + error * generator.normal(size=(400, *values.shape)))
        if bare.any():
            chosen = masks[~bare].reset_index(drop=True)
            languages = tuple(table.columns)
            bases = values[bare][0], draws[:, bare][:, 0]
            found[model, metric] = Resampled(
                metric, languages, chosen, bases[0], values[~bare], bases[1], draws[:, ~bare]
            )
    return found


def make_langspec(rows: pd.DataFrame) -> pd.DataFrame:
    """LangSpec rows of tidy rows."""
    return langspec_of(rows)


def make_sets(*, layers=4, inner=640, hidden=160, seed=0) -> list:
    """Disjoint sets for contrast, overlapping row sets for kurtosis, small sets for LAPE, random draws."""
    generator = np.random.default_rng(seed)
    sets = []
    widths = {"neuron": inner, "gate": inner, "up": inner, "down": hidden}
    permuted = [generator.permutation(inner) for _ in range(layers)]
    common = {site: [generator.permutation(n)[: n // 30] for _ in range(layers)] for site, n in widths.items()}
    for number, language in enumerate(LANGUAGES):
        part = [np.sort(permuted[k][number * 64 : (number + 1) * 64 - 8 * k]) for k in range(layers)]
        sets.append(NeuronSet({"neuron": part}, widths, "base", "contrast", "0.1", language))
        rows = {
            site: [np.union1d(common[site][k], generator.choice(width, width // 20 + k)) for k in range(layers)]
            for site, width in list(widths.items())[1:]
        }
        sets.append(NeuronSet(rows, widths, "base", "kurtosis", "published", language))
        few = [np.sort(generator.choice(inner, 5 + 3 * number, replace=False)) for _ in range(layers)]
        sets.append(NeuronSet({"neuron": few}, widths, "base", "lape", "published", language))
        for draw in range(2):
            random = [np.sort(generator.choice(inner, len(p), replace=False)) for p in part]
            sets.append(NeuronSet({"neuron": random}, widths, "base", "random_like_contrast", "0.1", language, draw))
    return sets


def make_relevance(seed=0, *, layers=4, inner=640, hidden=160) -> dict[str, dict[str, np.ndarray]]:
    """Language -> site -> mean absolute relevance."""
    generator = np.random.default_rng(seed)
    widths = {"neuron": inner, "gate": inner, "up": inner, "down": hidden}
    weight = np.linspace(0.5, 2.0, layers)[:, None]
    return {
        language: {site: generator.gamma(0.5, size=(layers, width)) * weight for site, width in widths.items()}
        for language in LANGUAGES
    }


def make_z(seed=0) -> dict[str, np.ndarray]:
    """Language -> z-scores with a heavy upper tail and a few rows without one."""
    generator = np.random.default_rng(seed)
    raw = {language: generator.lognormal(0, 1.2, size=4 * (2 * 640 + 160)) for language in LANGUAGES}
    return {code: np.append([np.nan] * 7, (values - values.mean()) / values.std()) for code, values in raw.items()}


def make_histories(seed=0) -> dict[str, pd.DataFrame]:
    """Model -> training history."""
    generator = np.random.default_rng(seed)
    result = {}
    for model, steps, low in (("base", 3000, 0.6), ("chat", 400, 0.5)):
        step = np.arange(0, steps + 1, 10)
        loss = low + 7 * np.exp(-step / (steps / 8)) + generator.normal(0, 0.03, len(step))
        result[model] = pd.DataFrame({"step": step, "loss": loss, "tokens": step * 4096})
    return result


def make_guessers() -> pd.DataFrame:
    """Accuracy of the model and the guessers."""
    values = {
        "model": (0.48, 0.93, 0.73),
        "overlap": (0.53, 0.40, 0.58),
        "longest": (0.28, 0.22, 0.3),
        "shortest": (0.2, 0.27, 0.24),
        "answer_frequency": (0.26, 0.26, 0.26),
    }
    table = pd.DataFrame(values, index=LANGUAGES).rename_axis("language").reset_index()
    return table.melt("language", var_name="guesser", value_name="accuracy").assign(n=336)


def make_examples(seed=0) -> list[tuple[str, list[str], list[float]]]:
    """Language, tokens, relevances."""
    generator = np.random.default_rng(seed)
    texts = {
        "en": "The| currency| of| France| is| the| euro|.| In| Norway|,| people| pay| with| the| Norwegian| krone|.",
        "zh": "法国|的|货币|是|欧元|。|在|挪威|，|人们|付款|使用|挪威|克朗|。",
        "vi": "Đơn| vị| tiền| tệ| của| Pháp| là| euro|.| Ở| Na| Uy|,| người| dân| trả| tiền| bằng| krone| Na| Uy|.",
    }
    tokens = {code: text.split("|") for code, text in texts.items()}
    return [(code, parts, generator.normal(size=len(parts)).tolist()) for code, parts in tokens.items()]


def make_benchmark_items(seed=0):
    """Questions of two benchmarks, unmasked, under the masks of one method and of two random draws."""
    generator = np.random.default_rng(seed)
    masks = [("none", "", "", -1), *(("contrast", "0.1", language, -1) for language in LANGUAGES)]
    masks += [("random_global", "0.1", language, draw) for language in LANGUAGES for draw in (0, 1)]
    frames = [
        pd.DataFrame({"item": range(20), "benchmark": ["XQuAD"] * 12 + ["CLDR facts"] * 8}).assign(
            model="base",
            selected_on="base" if masked else "",
            method=method,
            budget=budget,
            masked_language=masked,
            random_seed=draw,
            language=language,
            correct=generator.random(20) < (0.3 if masked == language else 0.8),
        )
        for method, budget, masked, draw in masks
        for language in LANGUAGES
    ]
    return pd.concat(frames, ignore_index=True)
