"""A small random model in a Hugging Face directory of its own, texts and questions for it, and a profile of them."""

import json
from pathlib import Path

import torch
import yaml
from transformers import AutoConfig, GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from crane_study.options import DocumentOptions, Loading, PassOptions, QuestionOptions
from crane_study.training import CHAT_TEMPLATE, train_tokenizer

LANGUAGES = ["en", "vi"]
OBJECTIVES = ["gold_logit", "log_probability"]
LOADING = Loading(device="cpu", dtype="float64")
_BASE = {"profile": "small", "model_name": "base", "languages": LANGUAGES, "loading": LOADING}
PASSES = PassOptions(
    languages=LANGUAGES, rule="attnlrp", objectives=OBJECTIVES, token_budget=256, max_length=40, loading=LOADING
)
ON_DOCUMENTS = DocumentOptions(token_budget=256, max_length=40, **_BASE)
ON_QUESTIONS = QuestionOptions(batch_size=4, delimiters={}, **_BASE)
TEXTS = {
    "en": [f"In town number {n} the river runs past {n + 3} old mills and a grey stone bridge." for n in range(30)],
    "vi": [f"Ở thị trấn số {n}, con sông chảy qua {n + 3} cối xay cũ và một cây cầu đá xám." for n in range(30)],
}
QUESTIONS = {
    language: [
        {"question": text.format(n), "options": [three, four, f"{n + 3}", none], "gold": n % 4} for n in range(8)
    ]
    for language, text, three, four, none in [
        ("en", "How many mills in town {}?", "three", "four", "none"),
        ("vi", "Thị trấn {} có mấy cối xay?", "ba", "bốn cũ", "không"),
    ]
}


def small_tokenizer(texts=None, *, vocabulary=400) -> PreTrainedTokenizerFast:
    return train_tokenizer(texts or [*TEXTS["en"], *TEXTS["vi"]], vocabulary=vocabulary, max_length=128)


def small_model(vocabulary: int, *, random_seed=0) -> LlamaForCausalLM:
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=128,
        tie_word_embeddings=True,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=1,
    )
    return _random(LlamaForCausalLM, config, random_seed)


def _random(kind, config, random_seed):
    with torch.random.fork_rng():
        torch.manual_seed(random_seed)
        model = kind(config)
        for parameter in model.parameters():
            if parameter.ndim > 1:
                torch.nn.init.normal_(parameter, std=0.3)
    return model.eval()


def write_ungated(folder: Path) -> Path:
    """Put a GPT-2 in the place of the model of a folder; its tokenizer stays."""
    vocabulary = AutoConfig.from_pretrained(folder).vocab_size
    sizes = {"vocab_size": vocabulary, "n_embd": 16, "n_layer": 2, "n_head": 2, "n_inner": 24, "n_positions": 128}
    _random(GPT2LMHeadModel, GPT2Config(**sizes, bos_token_id=0, eos_token_id=1), 0).save_pretrained(folder)
    return folder


def write_model(folder: Path, *, texts=None, random_seed=0, chat=False) -> Path:
    """A random model with a tokenizer trained on `texts`."""
    tokenizer = small_tokenizer(texts)
    if chat:
        tokenizer.chat_template = CHAT_TEMPLATE
    small_model(len(tokenizer), random_seed=random_seed).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def write_lines(path: Path, rows) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def write_study(folder: Path, *, texts=None, name="small", chat=False, questions=True, **source) -> Path:
    """A profile with a local source, and all that it names, in one folder; returns the profile's path."""
    texts = texts or TEXTS
    everything = [text for documents in texts.values() for text in documents]
    write_model(folder / "model", texts=everything)
    named = {"kind": "local", "base_model": "model", "texts": {language: f"{language}.jsonl" for language in texts}}
    for language, documents in texts.items():
        write_lines(folder / f"{language}.jsonl", [{"text": text} for text in documents])
    if chat:
        write_model(folder / "chat", texts=everything, random_seed=1, chat=True)
        named["chat_model"] = "chat"
    if questions:
        named["questions"] = {language: f"questions.{language}.jsonl" for language in texts}
        for language in texts:
            write_lines(folder / f"questions.{language}.jsonl", QUESTIONS[language])
    values = {
        "name": name,
        "description": "a random model, for tests",
        "languages": {language: language for language in texts},
        "device": "cpu",
        "source": named | source,
        "relevance": {"max_length": 96, "token_budget": 512},
        "evaluation": {"batch_size": 4},
    }
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(values, allow_unicode=True), encoding="utf-8")
    return path


def write_model_and_texts(root):
    """Write a tiny model, ``model``, and texts in two languages, ``en.jsonl`` and ``vi.jsonl``."""
    write_model(root / "model")
    for language, texts in TEXTS.items():
        write_lines(root / f"{language}.jsonl", [{"text": text} for text in texts])
