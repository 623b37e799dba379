import torch
from hypothesis import given
from hypothesis import strategies as st

from crane_lib.nll import pad_batch

DOCUMENTS = st.lists(st.lists(st.integers(0, 99), min_size=1, max_size=7), min_size=1, max_size=5)


@given(documents=DOCUMENTS)
def test_the_tokens_stand_at_the_left_and_only_they_are_marked(documents):
    ids, mask = pad_batch(documents)
    width = max(map(len, documents))
    assert ids.shape == mask.shape == (len(documents), width)
    assert (ids.dtype, mask.dtype) == (torch.long, torch.bool)
    for row, document in enumerate(documents):
        assert ids[row, : len(document)].tolist() == document
        assert mask[row].tolist() == [True] * len(document) + [False] * (width - len(document))
