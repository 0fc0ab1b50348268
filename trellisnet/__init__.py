"""TrellisNet (Bai, Kolter, Koltun 2019).

    from trellisnet import TrellisNet, TrellisNetLM
"""

from typing import TYPE_CHECKING

from loading.names import lazily

if TYPE_CHECKING:
    from trellisnet.lm import TrainingLoss, TrellisNetLM
    from trellisnet.seq_MNIST_CIFAR.model import SequenceClassifier
    from trellisnet.trellisnet import TrellisNet, trellis_plain
    from trellisnet.weights import load_original_state, original_state

__all__ = ["SequenceClassifier", "TrainingLoss", "TrellisNet", "TrellisNetLM",
           "load_original_state", "original_state", "trellis_plain"]

__getattr__, __dir__ = lazily(__name__, {
    "trellisnet": ("TrellisNet", "trellis_plain"), "lm": ("TrellisNetLM", "TrainingLoss"),
    "seq_MNIST_CIFAR.model": ("SequenceClassifier",),
    "weights": ("load_original_state", "original_state")})
