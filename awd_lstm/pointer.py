"""Evaluates a model with a continuous cache (Grave, Joulin, Usunier 2016, arXiv 1612.04426).

    python pointer.py --data data/penn --save PTB.pt --lambdasm 0.1 --theta 1.0 --window 500 \\
                      --bptt 5000
    -> validation / test perplexity about 53.2 / 52.5 after finetune.py (published)

Nothing is trained: the probability of the next word is mixed with that of the words which followed
the most similar of the last `window` hidden states. Texts of one's own will do, valid.txt, test.txt
or one of them: words that the model does not know are read as <unk>, counted and named.
"""

import argparse
import sys
from pathlib import Path

if __package__ in (None, ""):
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from awd_lstm import MODELS
from awd_lstm import args as toolkit
from harness import flags


# ------------------------------------------------------------------------------------- settings
def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = flags.parser("PyTorch PennTreeBank RNN/LSTM Language Model")
    parser.add_argument("--data", default=str(toolkit.HERE / "data/penn"), metavar="DIR",
                        help="folder with valid.txt, test.txt or one of them (for a model file "
                             "without its vocabulary also train.txt)")
    parser.add_argument("--model", default="LSTM", choices=MODELS,
                        help="recurrent layer (the model file's own counts)")
    parser.add_argument("--save", default="best.pt", metavar="FILE", help="model to evaluate")
    parser.add_argument("--bptt", type=int, default=5000, help="tokens pushed through at a time")
    parser.add_argument("--window", type=int, default=3785,
                        help="number of past states in the cache")
    parser.add_argument("--theta", type=float, default=0.6625523432485668,
                        help="flattens (< 1) or sharpens the cache's softmax")
    parser.add_argument("--lambdasm", type=float, default=0.12785920428335693,
                        help="weight of the cache in the mixture")
    parser.add_argument("--exact-cache", action=flags.OnOff, default=False,
                        help="use the cache before it is full and at chunk starts; the original "
                             "(and the published numbers) do not, so that --bptt matters a little")
    toolkit.add_exact_loss(parser)
    flags.add_machine(parser)
    args = flags.parse(parser, argv)
    flags.check(parser, args, positive=("bptt", "window"))
    if not 0 <= args.lambdasm <= 1:
        parser.error("--lambdasm must be in [0, 1]")
    return args


if __name__ == "__main__":
    parse_args()  # -h and typing mistakes answer before torch is imported

import numpy as np
import torch
from torch import Tensor

from awd_lstm.data import Dictionary
from awd_lstm.inputs import load_model, where_to_get
from awd_lstm.model import RNNModel
from awd_lstm.utils import batchify, get_batch
from awd_lstm.vocabulary import dictionary_for
from common.splitcross import SplitCrossEntropyLoss, perplexity
from harness.endings import BadInput, bad_input
from harness.keeper import Keeper
from harness.notices import notice
from texts.folder import find_some
from texts.sentences import opened, read_text, words
from texts.vocabulary import sentence_about
from texts.words import EOS

BLOCK = 256  # positions scored at a time: bounds the memory at BLOCK * max(V, window + BLOCK)


# ----------------------------------------------------------------------------------------- cache
class Cache:
    """The last `window` hidden states, each with the word that followed it.

    Notation: T positions of a chunk, H size of a state, g a position in the whole text.

    p(w) at position g is the sum of softmax_j(theta h_j . h_g) over the positions j among
    g-window .. g-1 that were followed by w. As in the original, position idx of a chunk has a cache
    only if (states kept from earlier chunks) + idx > window; with `exact` whenever there is any.
    """

    def __init__(self, window: int, theta: float, exact: bool = False):
        self.window, self.theta, self.exact = window, theta, exact
        self.states: Tensor | None = None   # (n, H)
        self.words: Tensor | None = None    # (n,) the word after each state

    def __call__(self, states: Tensor, words: Tensor) -> tuple[Tensor, Tensor]:
        """One chunk: states (T, H) and the words that follow them (T,).

        Returns the cache's probability of those words (T,) and where there was a cache (T,) bool,
        and remembers the chunk.
        """
        kept = 0 if self.states is None else len(self.states)
        all_states = states if kept == 0 else torch.cat([self.states, states])
        all_words = words if kept == 0 else torch.cat([self.words, words])
        position = torch.arange(len(states), device=states.device) + kept
        active = position > 0 if self.exact else position > self.window
        probability = torch.cat([self._block(all_states, all_words, start + kept, BLOCK)
                                 for start in range(0, len(states), BLOCK)])
        self.states, self.words = all_states[-self.window:], all_words[-self.window:]
        return torch.where(active, probability, 0), active

    def _block(self, states: Tensor, words: Tensor, first: int, count: int) -> Tensor:
        """Probabilities of words[first : first+count] given the states before each."""
        oldest = max(0, first - self.window)
        query = states[first: first + count]                       # (Q, H)
        key = states[oldest: first + count]                        # (K, H)
        age = (torch.arange(len(query), device=key.device)[:, None] + first - oldest
               - torch.arange(len(key), device=key.device))        # (Q, K) steps back
        scores = (self.theta * query @ key.t()).masked_fill((age < 1) | (age > self.window),
                                                            -torch.inf)
        same = words[oldest: first + count] == words[first: first + count, None]
        # A row without any past state is all -inf; its softmax is nan and is not used.
        return torch.where(same & (age > 0), scores.softmax(1), 0).sum(1)


# ------------------------------------------------------------------------------------ evaluation
@torch.no_grad()
def evaluate(model: RNNModel, criterion: SplitCrossEntropyLoss, source: Tensor,
             args: argparse.Namespace) -> float:
    """Mean loss (nats per token) of the text source (rows, 1) under the mixture."""
    model.eval()
    model.reset()
    hidden = model.init_hidden(1)
    cache = Cache(args.window, args.theta, args.exact_cache)
    total = 0.0
    for i in range(0, len(source) - 1, args.bptt):
        if i > 0:
            print(i, len(source), perplexity(total / i), flush=True)
        data, targets = get_batch(source, i, args.bptt)
        _, hidden, raw_outputs, _ = model(data, hidden, return_h=True)
        states = raw_outputs[-1].squeeze(1)                        # (T, H), undropped
        p_vocab = vocabulary_probability(model, criterion, states, targets)
        p_cache, active = cache(states, targets)
        p = torch.where(active, args.lambdasm * p_cache + (1 - args.lambdasm) * p_vocab, p_vocab)
        total += -p.double().log().sum().item()
    return total / (len(source) - (1 if args.exact_loss else 0))


def vocabulary_probability(model: RNNModel, criterion: SplitCrossEntropyLoss, states: Tensor,
                           targets: Tensor) -> Tensor:
    """The model's own probability of each target: states (T, H), targets (T,) -> (T,)."""
    return torch.cat([
        criterion.logprob(model.decoder.weight, model.decoder.bias, h).gather(1, w[:, None])[:, 0]
        for h, w in zip(states.split(BLOCK), targets.split(BLOCK), strict=True)]).exp()


def read_texts(data: str, dictionary: Dictionary) -> dict[str, np.ndarray]:
    """{val or test: ids} of the texts in the folder `data`, of which one may be missing. Tells on
    stderr which words became <unk>. Raises BadInput."""
    try:
        paths = find_some(Path(data), ("valid", "test"))
    except FileNotFoundError as error:
        raise BadInput(f"--data {data}: {error}; {where_to_get(data, 'valid.txt or test.txt')}"
                       ) from None
    found = {}
    for split, path in paths.items():
        with opened(str(path)) as file:
            text = read_text(file, dictionary.word2idx, dictionary.word2idx[EOS], words)
        if len(text.ids) < 2:
            raise BadInput(f"{path} is too short, it has a single token: give a longer text")
        if text.unknown:
            print(f"{path}: {sentence_about(text.unknown, len(text.ids))}", file=sys.stderr)
        found["val" if split == "valid" else split] = text.ids.numpy()
    return found


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    with Keeper("awd_lstm/pointer.py", args, writes=False) as keeper:
        fabric = keeper.fabric
        with bad_input("--save: "):
            model, criterion, facts = load_model(args.save)
        if said := flags.overruled(args, {"model": model.rnn_type}):
            notice(said)
        dictionary = dictionary_for(facts, model.ntoken, f"--save {args.save}", args.data, fabric)
        texts = read_texts(args.data, dictionary)
        module = fabric.setup_module(torch.nn.ModuleList([model, criterion]))
        print(model)
        for name, ids in texts.items():
            source = batchify(ids, 1, fabric.device)
            with fabric.autocast():
                loss = evaluate(*module.module, source, args)
            print("=" * 89)
            print(f"| End of pointer | {name} loss {loss:5.2f} "
                  f"| {name} ppl {perplexity(loss):8.2f}")
            print("=" * 89)


if __name__ == "__main__":
    main()
