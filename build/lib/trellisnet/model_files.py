"""Our model files: the best model of a run, with the flags that made it and its words."""

from argparse import Namespace
from collections.abc import Callable

from torch import Tensor, nn

from harness import files
from harness.endings import BadInput, bad_input
from harness.keeper import STATE_FORMAT
from texts.vocabulary import sentence_about, words_in_file
from trellisnet.release1 import STATE_FORMAT_1
from trellisnet.text import Corpus

FORMAT = "trellisnet model 1"
# The flags that make the architecture: --load takes them from the file.
ARCHITECTURE = ("emsize", "nhid", "nout", "nlevels", "ksize", "dilation", "wnorm", "tied",
                "n_experts", "aux_freq", "last_word_padding", "splits", "cifar", "permute")


def content(loss: nn.Module, **facts) -> dict:
    """What a file holds of the model now, besides the flags. facts: plain values."""
    return {"format": FORMAT, **facts,
            "model": {name: value.contiguous() for name, value in loss.state_dict().items()}}


def read(path: str, flag: str = "--load") -> dict:
    """A model file, or a training state, which has weights and flags too. Raises BadInput."""
    with bad_input(f"{flag}: "):
        found = files.read(path)
    if found.get("format") not in (FORMAT, STATE_FORMAT, STATE_FORMAT_1):
        raise BadInput(f"{flag}: {path} is no model file of these scripts; an original's weights "
                       "are for --load_weight of the script")
    return found


def words_of(found: dict) -> list[str] | None:
    """A language model's words by id; None of a file that does not list them. Raises ValueError."""
    return words_in_file(found, found["words"]) if "words" in found else None


def texts_in_words_of(found: dict | None, corpus: Corpus, args: Namespace,
                      say: Callable[[str], None]) -> Corpus:
    """The texts of --data with the words of the model or state that a run starts from; tells which
    of theirs it does not know. Raises BadInput if it has no <unk> for them."""
    with bad_input(f"--load {args.load}: " if args.load else "--resume: "):
        words = words_of(found) if found else None
    if words is None or words == corpus.words:
        return corpus
    with bad_input(f"--data {args.data}: "):
        texts = corpus.in_words_of(words)
    say(f"--data {args.data}: {sentence_about(texts.unknown, texts.tokens())}")
    return texts


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
