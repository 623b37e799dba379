"""The results that reports are tested on are those that tables and figures are tested on."""

from tests.study.outputs.conftest import counts, langspec, made, rows, run, shared_units  # noqa: F401
