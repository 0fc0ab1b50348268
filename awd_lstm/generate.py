"""Lets a trained model write text.

    python generate.py --data data/penn --checkpoint PTB.pt --words 200 --outf -
    python generate.py --data data/penn --checkpoint PTB.pt --prompt "the company said" --top-k 50
"""

import argparse
import sys
from pathlib import Path

if __package__ in (None, ""):
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import torch
from torch import Tensor

from awd_lstm import args as flags
from awd_lstm.data import Dictionary
from awd_lstm.environment import (
    BadInput,
    load_corpus,
    load_trained,
    make_fabric,
    orderly_exit,
)
from awd_lstm.model import MODELS, RNNModel
from common.splitcross import SplitCrossEntropyLoss


# ------------------------------------------------------------------------------------- settings
def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    p = argparse.ArgumentParser(description="PyTorch PTB Language Model",
                                formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    p.add_argument("--data", default=str(flags.HERE / "data/penn"), metavar="DIR",
                   help="texts that the model was trained on (for the vocabulary)")
    p.add_argument("--model", default="LSTM", choices=MODELS,
                   help="recurrent layer (the model file's own counts)")
    p.add_argument("--checkpoint", default="./model.pt", metavar="FILE", help="model to use")
    p.add_argument("--outf", default="generated.txt", metavar="FILE",
                   help="text file to write, UTF-8; - for standard output")
    p.add_argument("--words", type=int, default=1000, help="number of words to generate")
    p.add_argument("--seed", type=int, default=1111, help="same seed, same text")
    p.add_argument("--temperature", type=float, default=1.0,
                   help="below 1 safer words, above 1 bolder ones")
    p.add_argument("--top-k", type=int, default=0, metavar="K",
                   help="choose among the K most probable words only (0: all)")
    p.add_argument("--prompt", default=None, metavar="TEXT",
                   help="words to go on from (None: a random word)")
    p.add_argument("--log-interval", type=int, default=100, metavar="N",
                   help="report every N words")
    flags.device(p)
    args = p.parse_args(argv)
    if not args.temperature >= 1e-3:
        p.error("--temperature has to be greater or equal 1e-3")
    if args.words < 0 or args.top_k < 0 or args.log_interval < 1:
        p.error("--words and --top-k must not be negative, --log-interval must be at least 1")
    flags.check_finite(p, args)
    return args


# ------------------------------------------------------------------------------------- generation
def prompt_ids(dictionary: Dictionary, prompt: str) -> list[int]:
    """Ids of the prompt's words, <unk> for unknown ones. Raises BadInput if there is no <unk>."""
    unknown = dictionary.word2idx.get("<unk>")
    ids = [dictionary.word2idx.get(word, unknown) for word in prompt.split()]
    if not ids or None in ids:
        raise BadInput(f"--prompt {prompt!r}: needs at least one word, all of them in the "
                       "vocabulary of --data (which has no <unk>)")
    return ids


def sample(log_probability: Tensor, temperature: float, top_k: int) -> Tensor:
    """One word id, (1,) int64, from log-probabilities (V,), drawn on the CPU."""
    scores = log_probability.float().cpu() / temperature
    if top_k:
        kept = scores.topk(min(top_k, len(scores)))
        scores = torch.full_like(scores, -torch.inf).scatter(0, kept.indices, kept.values)
    # The largest weight is 1: exp cannot overflow at any temperature.
    return torch.multinomial((scores - scores.max()).exp(), 1)


@torch.no_grad()
def generate(model: RNNModel, criterion: SplitCrossEntropyLoss, start: Tensor, words: int,
             temperature: float, top_k: int = 0):
    """Yields `words` word ids, each sampled given all before. start: (T, 1) ids to go on from."""
    model.eval()
    model.reset()
    hidden = model.init_hidden(1)
    inputs = start
    for _ in range(words):
        output, hidden = model(inputs, hidden)
        log_probability = criterion.logprob(model.decoder.weight, model.decoder.bias, output[-1:])
        word = sample(log_probability[0], temperature, top_k)
        inputs = word.to(start.device).view(1, 1)
        yield int(word)


def run(args: argparse.Namespace) -> None:
    fabric = make_fabric(args)
    corpus = load_corpus(args.data)
    dictionary = corpus.dictionary
    model, criterion = load_trained("--checkpoint", args.checkpoint, args.data, corpus)
    torch.manual_seed(args.seed)  # building the model has drawn from the stream
    model, criterion = fabric.setup_module(torch.nn.ModuleList([model, criterion])).module
    if args.prompt is None:
        start = (torch.rand(1, 1) * len(dictionary)).long()
    else:
        start = torch.tensor(prompt_ids(dictionary, args.prompt)).view(-1, 1)
    to_stdout = args.outf == "-"
    with (open(1, "w", encoding="utf-8", closefd=False) if to_stdout
          else open(args.outf, "w", encoding="utf-8")) as out, fabric.autocast():
        if args.prompt is not None:
            out.write(" ".join(dictionary.idx2word[i] for i in start[:, 0]) + " ")
        ids = generate(model, criterion, start.to(fabric.device), args.words, args.temperature,
                       args.top_k)
        for i, word in enumerate(ids):
            out.write(dictionary.idx2word[word] + ("\n" if i % 20 == 19 else " "))
            if i % args.log_interval == 0:
                print(f"| Generated {i}/{args.words} words",
                      file=sys.stderr if to_stdout else sys.stdout)


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    with orderly_exit("generate.py"):
        run(args)


if __name__ == "__main__":
    main()
