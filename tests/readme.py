"""The README, the documents for users, and the commands in them."""

import itertools
import re
import shlex

from crane_study import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")
_PAGES = ("running", "own-study", "container")
TEXT = "\n".join([README, *((ROOT / "docs" / f"{name}.md").read_text(encoding="utf-8") for name in _PAGES)])
_PROGRAMS = r"(crane|python|docker|conda|torchrun|source|hf|tools/\w+\.sh) "
_COMMAND = re.compile(rf"(\w+=\S+ )*(\./run_(all|tests)\.sh( |$)|{_PROGRAMS})")
_NAMES = ("crane verify", "crane bench", "docker run")  # said in a sentence, without what it is called with


def commands() -> list[str]:
    """Lines of bash blocks, and what stands between backticks or in a line's comment and begins like a command."""
    blocks = re.findall(r"```bash\n(.*?)```", TEXT, flags=re.DOTALL)
    lines = [" ".join(line.split()) for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    rest = re.sub(r"```.*?```", "", TEXT, flags=re.DOTALL)
    said = [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", rest)]
    said += [line.partition(" # ")[2].partition(": ")[0] for line in lines]
    found = [line.partition(" # ")[0] for line in lines]
    found += [one for one in said if _COMMAND.match(one) and one not in _NAMES]
    return list(dict.fromkeys(found))


def split(command: str) -> tuple[dict[str, str], list[str]]:
    """Settings before a command, and its words."""
    words = shlex.split(command)
    settings = list(itertools.takewhile(re.compile(r"\w+=").match, words))
    return dict(word.split("=", 1) for word in settings), words[len(settings) :]


def starting(*start: str) -> list[str]:
    """Commands whose first words are these."""
    return [command for command in commands() if split(command)[1][: len(start)] == list(start)]
