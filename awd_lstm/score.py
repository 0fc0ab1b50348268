"""Scores any text with a trained model: log-probability and perplexity, per sentence and in all.

    python score.py PTB.pt mine.txt
    echo "the company said" | python score.py PTB.pt --independent --per-token
    python score.py PTB.pt data/penn/test.txt --totals
    -> also the line that main.py ends with: the same text, the same perplexity
"""

import argparse
import sys
from pathlib import Path

if __package__ in (None, ""):
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from awd_lstm import args as toolkit
from harness import flags
from texts import flags as text_flags


# ------------------------------------------------------------------------------------- settings
def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = flags.parser("Scores a text with a trained language model")
    text_flags.describe(parser, more=text_flags.CLOSING)
    text_flags.add_text(parser, "model file of main.py or finetune.py, or an original's state_dict")
    parser.add_argument("--data", default=str(toolkit.HERE / "data/penn"), metavar="DIR",
                        help="texts that the model was trained on, if its file does not hold its "
                             "vocabulary (release 0.1, an original's state_dict)")
    text_flags.add_bptt(parser)
    flags.add_machine(parser)
    args = flags.parse(parser, argv)
    flags.check(parser, args, positive=("bptt",))
    return args


if __name__ == "__main__":
    parse_args()  # -h and typing mistakes answer before torch is imported

import torch
from torch import Tensor

from awd_lstm.inputs import load_model
from awd_lstm.model import RNNModel
from awd_lstm.vocabulary import dictionary_for
from common.splitcross import SplitCrossEntropyLoss
from harness.endings import bad_input
from harness.keeper import Keeper
from texts.scores import closing_line, continuous, independent, of_targets, report
from texts.sentences import opened, read_text, words
from texts.words import EOS


@torch.no_grad()
def columns(model: RNNModel, criterion: SplitCrossEntropyLoss, source: Tensor, bptt: int) -> Tensor:
    """log p of source[1:] (T, B) given the rows above, each column from a zero state: (T-1, B)."""
    model.eval()
    model.reset()
    hidden, found = model.init_hidden(source.shape[1]), []

    def log_p(outputs: Tensor) -> Tensor:
        return criterion.logprob(model.decoder.weight, model.decoder.bias, outputs)

    for i in range(0, len(source) - 1, bptt):
        data, targets = source[i:i + bptt][:len(source) - 1 - i], source[i + 1:i + 1 + bptt]
        output, hidden = model(data, hidden)                            # (T*B, H)
        found.append(of_targets(log_p, output, targets.reshape(-1), model.ntoken
                                ).view(targets.shape))
    return torch.cat(found)


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    with Keeper("awd_lstm/score.py", args, writes=False) as keeper:
        fabric = keeper.fabric
        with bad_input("MODEL: "):
            model, criterion, facts = load_model(args.model)
        dictionary = dictionary_for(facts, model.ntoken, args.model, args.data, fabric)
        end = dictionary.word2idx[EOS]
        with opened(args.text) as file:
            text = read_text(file, dictionary.word2idx, end, words)
        model, criterion = fabric.setup_module(torch.nn.ModuleList([model, criterion])).module

        def log_p(source: Tensor) -> Tensor:
            return columns(model, criterion, source.to(fabric.device), args.bptt)

        with fabric.autocast():
            found = (independent(log_p, text, end) if args.independent else
                     continuous(log_p, text))
        extra = {} if args.independent else closing_line(found)
        report(text, found, args, dictionary.idx2word, extra)


if __name__ == "__main__":
    main()
