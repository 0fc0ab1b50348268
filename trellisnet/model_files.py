"""Our model files: the best model of a run, with the flags that made it and its words."""

from argparse import Namespace
from collections.abc import Callable

from torch import Tensor, nn

from harness import files
from harness.endings import BadInput, bad_input
from harness.inputs import say_if_state
from harness.keeper import STATE_FORMAT
from texts import vocabulary
from trellisnet.release1 import STATE_FORMAT_1
from trellisnet.text import Corpus

FORMAT = "trellisnet model 1"
# The flags that make the architecture: --load takes them from the file.
ARCHITECTURE = ("emsize", "nhid", "nout", "nlevels", "ksize", "dilation", "wnorm", "tied",
                "n_experts", "aux_freq", "last_word_padding", "splits", "cifar", "permute")
ROWS = ("model.encoder.weight", "model.decoder.weight", "model.decoder.bias")  # a row per word


def content(loss: nn.Module, **facts) -> dict:
    """What a file holds of the model now, besides the flags. facts: plain values."""
    return {"format": FORMAT, **facts,
            "model": {name: value.contiguous() for name, value in loss.state_dict().items()}}


def read(path: str, flag: str = "--load", original: bool = False) -> dict:
    """A model file, or a training state, which has weights and flags too; `original`: or a bare
    state_dict. Raises BadInput."""
    with bad_input(f"{flag}: "):
        found = files.read(path)
    if original and "format" not in found:
        return found
    if found.get("format") not in (FORMAT, STATE_FORMAT, STATE_FORMAT_1):
        raise BadInput(f"{flag}: {path} is no model file of these scripts; an original's weights "
                       "are for --load_weight of the script")
    say_if_state(path, found)
    return found


def words_of(found: dict) -> list[str] | None:
    """A language model's words by id; None of a file that does not list them. Raises ValueError."""
    return vocabulary.words_in_file(found, found["words"]) if "words" in found else None


def texts_in_words_of(found: dict | None, corpus: Corpus, args: Namespace,
                      say: Callable[[str], None]) -> Corpus:
    """The texts of --data, by default with the words of the model or state that a run starts from
    (--vocabulary); tells which of theirs it does not know. Raises BadInput if it has no <unk> for
    them. A state of other texts changes nothing: the Keeper will refuse it by file name."""
    then = (found or {}).get("inputs")
    if then and then != corpus.digests:
        return corpus
    with bad_input(f"--load {args.load}: " if args.load else "--resume: "):
        words = words_of(found) if found else None
    if words is None or words == corpus.words or args.vocabulary == "data":
        return corpus
    try:
        texts = corpus.in_words_of(words)
    except vocabulary.UnknownWords as error:
        raise BadInput(f"--data {args.data}: {error}{vocabulary.instead(args)}") from error
    say(f"--data {args.data}: {vocabulary.sentence_about(texts.unknown, texts.tokens())}")
    return texts


def weights_for(corpus: Corpus, loss: nn.Module, given: dict, args: Namespace,
                say: Callable[[str], None]) -> dict[str, Tensor]:
    """The weights in --load's file for `loss`, which was made for the words of `corpus`. Raises
    BadInput."""
    if "words" not in given:
        raise BadInput(f"--load: {args.load} is no language model")
    if given["vocabulary"] == corpus.digest():
        return given["model"]
    with bad_input(f"--load {args.load}: "):
        known = words_of(given)
        if args.vocabulary == "data" and known is not None:
            say(vocabulary.sentence_about_vectors(known, corpus.words))
            return for_other_words(given["model"], known, corpus.words, loss.state_dict())
    if given["words"] != len(corpus):
        raise BadInput(f"--load: {args.load} knows {given['words']} words, --data has "
                       f"{len(corpus)}")
    raise BadInput(f"--load: {args.load} was trained on other words than those of --data")


def for_other_words(state: dict[str, Tensor], known: list[str], words: list[str],
                    fresh: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights for the words `known` as weights for `words`, see texts.vocabulary.with_words. The
    split softmax has parameters of its own, as many as it has parts."""
    state = vocabulary.with_words(state, ROWS, known, words, fresh)
    theirs, ours = ({name: each for name, each in some.items() if name.startswith("criterion.")}
                    for some in (state, fresh))
    same = {name: each.shape for name, each in theirs.items()} == {
        name: each.shape for name, each in ours.items()}
    rest = {name: each for name, each in state.items() if name not in theirs}
    return rest | (theirs if same else ours)


def sizes_for(args: Namespace, then: dict) -> dict:
    """The flags of this script that make the architecture, as they were for a model that `then`
    made."""
    of_its_words = {"splits"} if getattr(args, "vocabulary", "model") == "data" else set()
    return {name: then[name] for name in ARCHITECTURE
            if hasattr(args, name) and name in then and name not in of_its_words}


def take_sizes(args: Namespace, then: dict) -> None:
    """Sets the flags that make the architecture to those of a model that `then` made."""
    for name, value in sizes_for(args, then).items():
        setattr(args, name, value)


def load_weights(loss: nn.Module, state: dict[str, Tensor], path: str) -> None:
    """Puts a file's weights into `loss`. Raises BadInput if they do not fit."""
    try:
        loss.load_state_dict(state)
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise BadInput(f"--load: {path} does not fit: {reason}") from error
