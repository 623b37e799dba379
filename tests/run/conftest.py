"""Calls of the program; results that reports are tested on, which are those of tables and figures."""

import sys

import pytest

from crane_run import cli
from tests.study.outputs.conftest import counts, langspec, made, rows, run, shared_units  # noqa: F401


@pytest.fixture
def main(monkeypatch, capsys):
    """The entry point as the shell runs it: exit code, standard output, standard error."""

    def ended(*arguments):
        monkeypatch.setattr(sys, "argv", ["crane", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            cli.main()
        return stop.value.code or 0, *capsys.readouterr()

    return ended


@pytest.fixture
def complaint(main):
    """The one line on standard error of a call that is refused."""

    def refused(*arguments):
        code, _out, err = main(*arguments)
        assert (code, err.count("\n"), err[:7]) == (2, 1, "error: ")
        return err

    return refused
