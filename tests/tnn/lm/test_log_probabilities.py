"""What fairseq's criteria are given: in training in the memory of the scores, else beside them."""

import pytest
import torch

pytest.importorskip("fairseq", reason="fairseq is not installed, see README: Installing")

from fairseq.models import FairseqDecoder

from tnn.fairseq_plugin.language_model import TnnDecoder


@pytest.fixture
def decoder():
    made = TnnDecoder.__new__(TnnDecoder)
    FairseqDecoder.__init__(made, None)
    return made


@pytest.mark.parametrize("trained", [True, False])
@pytest.mark.parametrize("log_probs", [True, False])
def test_the_numbers_are_fairseqs(decoder, trained, log_probs):
    scores = torch.randn(2, 3, 50, requires_grad=trained)
    expected = FairseqDecoder.get_normalized_probs_scriptable(decoder, (scores, None), log_probs)
    given = scores * 1
    found = decoder.get_normalized_probs((given, None), log_probs)
    assert torch.equal(found, expected)
    in_place = found.data_ptr() == given.data_ptr()
    assert in_place == (trained and log_probs)
    assert in_place or torch.equal(given, scores)
