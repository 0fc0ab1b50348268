"""Our model files: the best model of a run, with the flags that made it."""

from argparse import Namespace

from torch import Tensor, nn

from harness import files
from harness.endings import BadInput, bad_input
from harness.keeper import STATE_FORMAT
from trellisnet.release1 import STATE_FORMAT_1

FORMAT = "trellisnet model 1"
# The flags that make the architecture: --load takes them from the file.
ARCHITECTURE = ("emsize", "nhid", "nout", "nlevels", "ksize", "dilation", "wnorm", "tied",
                "n_experts", "aux_freq", "last_word_padding", "splits", "cifar", "permute")


def content(loss: nn.Module, **facts) -> dict:
    """What a file holds of the model now, besides the flags. facts: plain values."""
    return {"format": FORMAT, **facts,
            "model": {name: value.contiguous() for name, value in loss.state_dict().items()}}


def read(path: str) -> dict:
    """A model file, or a training state, which has weights and flags too. Raises BadInput."""
    with bad_input("--load: "):
        found = files.read(path)
    if found.get("format") not in (FORMAT, STATE_FORMAT, STATE_FORMAT_1):
        raise BadInput(f"--load: {path} is no model file of these scripts; an original's weights "
                       "are for --load_weight")
    return found


def take_sizes(args: Namespace, then: dict) -> None:
    """Sets the flags that make the architecture to those of a model that `then` made."""
    for name in ARCHITECTURE:
        if hasattr(args, name) and name in then:
            setattr(args, name, then[name])


def load_weights(loss: nn.Module, state: dict[str, Tensor], path: str) -> None:
    """Puts a file's weights into `loss`. Raises BadInput if they do not fit."""
    try:
        loss.load_state_dict(state)
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise BadInput(f"--load: {path} does not fit: {reason}") from error
