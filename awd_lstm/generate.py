"""Lets a trained model write text.

    python generate.py --checkpoint PTB.pt --words 200 --outf -
    python generate.py --checkpoint PTB.pt --prompt "the company said" --top-k 50
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
    parser = flags.parser("PyTorch PTB Language Model")
    parser.add_argument("--data", default=str(toolkit.HERE / "data/penn"), metavar="DIR",
                        help="texts that the model was trained on, if its file does not hold its "
                             "vocabulary (release 0.1, an original's state_dict)")
    parser.add_argument("--model", default="LSTM", choices=MODELS,
                        help="recurrent layer (the model file's own counts)")
    parser.add_argument("--checkpoint", default="./model.pt", metavar="FILE", help="model to use")
    parser.add_argument("--outf", default="generated.txt", metavar="FILE",
                        help="text file to write, UTF-8; - for standard output")
    parser.add_argument("--words", type=int, default=1000, help="number of words to generate")
    parser.add_argument("--seed", type=int, default=1111, help="same seed, same text")
    parser.add_argument("--temperature", type=float, default=1.0,
                        help="below 1 safer words, above 1 bolder ones")
    parser.add_argument("--top-k", type=int, default=0, metavar="K",
                        help="choose among the K most probable words only (0: all)")
    parser.add_argument("--prompt", default=None, metavar="TEXT",
                        help="words to continue from (None: a random word)")
    parser.add_argument("--log-interval", type=int, default=100, metavar="N",
                        help="report every N words")
    flags.add_machine(parser)
    args = flags.parse(parser, argv)
    if not args.temperature >= 1e-3:
        parser.error("--temperature has to be greater or equal 1e-3")
    flags.check(parser, args, not_negative=("words", "top_k"))
    return args


if __name__ == "__main__":
    parse_args()  # -h and typing mistakes answer before torch is imported

import torch
from torch import Tensor

from awd_lstm.data import Dictionary
from awd_lstm.inputs import load_model
from awd_lstm.model import RNNModel
from awd_lstm.vocabulary import dictionary_for
from common.splitcross import SplitCrossEntropyLoss
from harness.endings import BadInput, bad_input
from harness.keeper import Keeper
from harness.notices import notice
from harness.outputs import check_output, text_output
from kernels.transfer import sent
from texts.vocabulary import ids_of


# ------------------------------------------------------------------------------------- generation
def prompt_ids(dictionary: Dictionary, prompt: str) -> list[int]:
    """Ids of the prompt's words, <unk> for unknown ones, which are named on stderr. Raises BadInput
    if there is no <unk>."""
    words = prompt.split()
    if not words:
        raise BadInput(f"--prompt {prompt!r}: needs at least one word")
    with bad_input(f"--prompt {prompt!r}: "):
        ids = ids_of(words, dictionary.word2idx)
    if missing := [word for word in words if word not in dictionary.word2idx]:
        print(f"--prompt: {', '.join(missing)} read as <unk>", file=sys.stderr)
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
    """Yields `words` word ids, each sampled given all before. start (T, 1): ids to continue."""
    model.eval()
    model.reset()
    hidden = model.init_hidden(1)
    inputs = start
    for _ in range(words):
        output, hidden = model(inputs, hidden)
        log_probability = criterion.logprob(model.decoder.weight, model.decoder.bias, output[-1:])
        word = sample(log_probability[0], temperature, top_k)
        inputs = sent(word, start.device).view(1, 1)
        yield int(word)


def start_of(args: argparse.Namespace, dictionary: Dictionary) -> Tensor:
    """Word ids to continue from, (T, 1): the prompt's, or one at random."""
    if args.prompt is None:
        return (torch.rand(1, 1) * len(dictionary)).long()
    return torch.tensor(prompt_ids(dictionary, args.prompt)).view(-1, 1)


def write(args: argparse.Namespace, words, start: list[str]) -> None:
    """Writes words as they come, 20 a line, after those of the prompt; reports on the progress."""
    progress = sys.stderr if args.outf == "-" else sys.stdout
    with text_output(args.outf) as out:
        out.writelines(f"{word} " for word in start)
        for i, word in enumerate(words):
            out.write(word + ("\n" if i % 20 == 19 else " "))
            if i % args.log_interval == 0:
                print(f"| Generated {i}/{args.words} words", file=progress)


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    with Keeper("awd_lstm/generate.py", args, writes=False) as keeper:
        fabric = keeper.fabric
        check_output("--outf", args.outf, args.checkpoint)
        with bad_input("--checkpoint: "):
            model, criterion, facts = load_model(args.checkpoint)
        if said := flags.overruled(args, {"model": model.rnn_type}):
            notice(said)
        dictionary = dictionary_for(facts, model.ntoken, f"--checkpoint {args.checkpoint}",
                                    args.data, fabric)
        vocabulary = dictionary.idx2word
        torch.manual_seed(args.seed)  # building the model has drawn from the stream
        module = fabric.setup_module(torch.nn.ModuleList([model, criterion])).module
        start = start_of(args, dictionary)
        with fabric.autocast():
            ids = generate(*module, start.to(fabric.device), args.words, args.temperature,
                           args.top_k)
            write(args, (vocabulary[i] for i in ids),
                  [] if args.prompt is None else [vocabulary[i] for i in start[:, 0]])


if __name__ == "__main__":
    main()
