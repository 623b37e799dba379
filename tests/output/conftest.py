import pytest

from crane_lib.overlap import overlaps, set_counts
from tests.output import synthetic


@pytest.fixture(scope="session")
def rows():
    return synthetic.make_rows()


@pytest.fixture(scope="session")
def langspec(rows):
    return synthetic.make_langspec(rows)


@pytest.fixture(scope="session")
def shared():
    return overlaps(synthetic.make_sets())


@pytest.fixture(scope="session")
def counts():
    return set_counts(synthetic.make_sets())
