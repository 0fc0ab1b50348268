"""A trained model and the words of texts that it was not trained on.

Either the texts are read with the model's words (--vocabulary model: unknown ones become <unk>), or
the model gets the texts' words (--vocabulary data: known ones keep their vectors).
"""

from argparse import Namespace
from collections.abc import Callable

from lightning_fabric import Fabric
from torch import Tensor

from awd_lstm.data import Corpus, Dictionary
from awd_lstm.inputs import load_corpus
from awd_lstm.model import RNNModel, default_splits, load_original_state
from awd_lstm.utils import single_precision
from common.splitcross import SplitCrossEntropyLoss
from harness.endings import BadInput, bad_input
from harness.keeper import Keeper
from texts.vocabulary import (
    UnknownWords,
    instead,
    sentence_about,
    sentence_about_vectors,
    with_words,
    words_in_file,
)

ROWS = ("encoder.weight", "decoder.weight", "decoder.bias")  # one row per word


def dictionary_of(content: dict, ntoken: int, what: str) -> Dictionary | None:
    """The words that a model file or training state lists; None if it is of before they did.
    what: the flag and the file, for BadInput, raised if the list does not fit the model."""
    with bad_input(f"{what}: "):
        words = words_in_file(content, ntoken, content.get("vocabulary"))
    return None if words is None else Dictionary(words)


def of_other_texts(keeper: Keeper, corpus: Corpus) -> bool:
    """Is the run that --resume continues of other texts? The Keeper will refuse it by file name."""
    then = (keeper.found or {}).get("inputs")
    return bool(then) and then != corpus.digests


def words_of_start(keeper: Keeper, corpus: Corpus) -> Dictionary | None:
    """The words of the model or the run that --resume names; None if it lists none."""
    content = keeper.weights or keeper.found
    if content is None or "word_list" not in content or of_other_texts(keeper, corpus):
        return None
    sizes = content.get("config", {})
    ntoken = sizes.get("ntoken", sizes.get("ntokens"))  # the latter in scratch/
    if ntoken is None:
        return None  # another script's file, which will be refused
    return dictionary_of(content, ntoken, f"--resume {keeper.args.resume}")


def dictionary_for(content: dict, ntoken: int, what: str, data: str, fabric: Fabric | None
                   ) -> Dictionary:
    """The words of a model; of a file that lists none, those of the texts in the folder `data`.
    Raises BadInput, also if they are other words than the model's."""
    found = dictionary_of(content, ntoken, what)
    if found is not None:
        return found
    corpus = load_corpus(data, fabric)
    refuse_other_words(content, ntoken, what, corpus, data)
    return corpus.dictionary


def refuse_other_words(content: dict, ntoken: int, what: str, corpus: Corpus, data: str) -> None:
    """Raises BadInput if a model that does not list its words was trained on others."""
    words = len(corpus.dictionary)
    if ntoken != words:
        raise BadInput(f"{what} knows {ntoken} words, --data {data} has {words}: give the --data "
                       "that it was trained on")
    if content.get("vocabulary", corpus.dictionary.digest()) != corpus.dictionary.digest():
        raise BadInput(f"{what} was trained on other words than those of --data {data}")


def texts_in_words_of(dictionary: Dictionary, corpus: Corpus, args: Namespace,
                      say: Callable[[str], None]) -> Corpus:
    """The texts with the words of a model; tells how many of theirs it does not know. Raises
    BadInput if it has no <unk> for them."""
    if dictionary.digest() == corpus.dictionary.digest():
        return corpus
    try:
        found = corpus.in_words_of(dictionary)
    except UnknownWords as error:
        raise BadInput(f"--data {args.data}: {error}{instead(args)}") from error
    say(f"--data {args.data}: {sentence_about(found.unknown, corpus.dictionary.total)}")
    return found


def texts_of_model(content: dict, ntoken: int, what: str, corpus: Corpus, args: Namespace,
                   say: Callable[[str], None]) -> Corpus:
    """texts_in_words_of for a model file or training state; of one that does not list its words,
    the texts must have these. Raises BadInput."""
    known = dictionary_of(content, ntoken, what)
    if known is not None:
        return texts_in_words_of(known, corpus, args, say)
    refuse_other_words(content, ntoken, what, corpus, args.data)
    return corpus


def model_with_words_of(corpus: Corpus, model: RNNModel, criterion: SplitCrossEntropyLoss,
                        known: Dictionary, say: Callable[[str], None]
                        ) -> tuple[RNNModel, SplitCrossEntropyLoss]:
    """A trained model and its loss for the words of `corpus`; the new ones' vectors are drawn."""
    words = corpus.dictionary
    with single_precision():
        fresh = RNNModel(**model.config() | {"ntoken": len(words)})
    loss = SplitCrossEntropyLoss(criterion.hidden_size, default_splits(len(words)))
    adopt(fresh, loss, model.state_dict(), criterion.state_dict(), known, words, say)
    return fresh, loss


def adopt(model: RNNModel, criterion: SplitCrossEntropyLoss, state: dict[str, Tensor],
          tails: dict[str, Tensor], known: Dictionary, words: Dictionary,
          say: Callable[[str], None]) -> None:
    """Puts the weights of a model for the words `known`, and of its loss, into a fresh one for
    `words`. Raises ValueError if they do not fit."""
    load_original_state(model, with_words(state, ROWS, known.idx2word, words.idx2word,
                                          model.state_dict()))
    own = criterion.state_dict()
    if all(name in own and own[name].shape == tail.shape for name, tail in tails.items()):
        criterion.load_state_dict(tails)
    say(sentence_about_vectors(known.idx2word, words.idx2word))
