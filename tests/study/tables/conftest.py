"""Made-up results, as for the figures."""

from tests.study.outputs.conftest import langspec, rows, shared_units  # noqa: F401
