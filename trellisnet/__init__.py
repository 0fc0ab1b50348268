"""TrellisNet (Bai, Kolter, Koltun 2019).

    from trellisnet import TrellisNet, TrellisNetLM

The names are looked up when they are first asked for: `import trellisnet` imports no torch, so
that the scripts answer -h at once.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from trellisnet.lm import TrainingLoss, TrellisNetLM
    from trellisnet.seq_MNIST_CIFAR.model import SequenceClassifier
    from trellisnet.trellisnet import TrellisNet, trellis_plain
    from trellisnet.weights import load_original_state, original_state

__all__ = ["SequenceClassifier", "TrainingLoss", "TrellisNet", "TrellisNetLM",
           "load_original_state", "original_state", "trellis_plain"]

_FILES = {"TrellisNet": "trellisnet", "trellis_plain": "trellisnet", "TrellisNetLM": "lm",
          "TrainingLoss": "lm", "SequenceClassifier": "seq_MNIST_CIFAR.model",
          "load_original_state": "weights", "original_state": "weights"}


def __getattr__(name: str):
    if name not in _FILES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_FILES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
