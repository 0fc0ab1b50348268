"""Scores any text with a trained model: log-probability and perplexity, per sentence and in all.

    python score.py logs/awd-lstm/model.pt mine.txt
    echo "the company said" | python score.py logs/awd-lstm/model.pt --independent --per-token
    python score.py logs/awd-lstm/finetune_model.pt data/penn/test.txt --totals
    -> also the line that main.py and finetune.py end with: the same text, the same perplexity
"""

import argparse
import sys
from pathlib import Path

if __package__ in (None, ""):
    sys.path[0] = str(Path(__file__).resolve().parents[2])

from harness import flags
from texts import flags as text_flags


# ------------------------------------------------------------------------------------- settings
def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = flags.parser("Scores a text with a trained dense or sparse AWD-LSTM")
    text_flags.describe(parser, more=text_flags.CLOSING)
    text_flags.add_text(parser, "model.pt or finetune_model.pt in --save of main.py (one of before "
                                "it held its vocabulary needs corpus.pt beside it)")
    text_flags.add_bptt(parser)
    flags.add_machine(parser)
    args = flags.parse(parser, argv)
    flags.check(parser, args, positive=("bptt",))
    return args


if __name__ == "__main__":
    parse_args()  # -h and typing mistakes are answered before torch is imported

import torch
from torch import Tensor

from harness import files
from harness.endings import BadInput, bad_input, orderly_exit
from harness.machine import make_fabric_of_tool
from sparse_seq.language_modeling.data import Corpus
from sparse_seq.language_modeling.model import LanguageModel
from sparse_seq.weights import is_ours, load_weights, weights_of
from texts.scores import AT_ONCE, closing_line, continuous, independent, report
from texts.sentences import opened, read_text, words
from texts.vocabulary import words_in_file
from texts.words import EOS


def load(path: Path) -> tuple[LanguageModel, list[str]]:
    """A trained model in evaluation mode and its words by id. Raises BadInput."""
    if path.is_dir():
        raise BadInput(f"MODEL: {path} is a folder: give the model.pt or finetune_model.pt in it")
    with bad_input("MODEL: "):
        content = files.read(path)
        if not is_ours(content) or "config" not in content:
            raise ValueError(f"{path} is no model file of main.py or finetune.py (an original's "
                             "state_dict: main.py --resume FILE makes one of it)")
        found = words_in_file(content, content["config"]["ntoken"], content["vocabulary"])
        model = LanguageModel(**content["config"])
        load_weights(model, weights_of(content))
        if found is None:
            corpus = Corpus.from_content(files.read(path.with_name("corpus.pt")))
            if corpus.digest() != content["vocabulary"]:
                raise ValueError(f"{path} was trained on other words than those of corpus.pt")
            found = corpus.words
    return model.eval(), found


@torch.no_grad()
def columns(model: LanguageModel, source: Tensor, bptt: int) -> Tensor:
    """log(p + 1e-8), as in training, of source[1:] (T, B) given the rows above, each column from a
    zero state: (T-1, B) float64."""
    hidden, found = model.init_hidden(source.shape[1]), []
    at_once = AT_ONCE // (source.shape[1] * model.n_experts * model.encoder.num_embeddings)
    rows = max(1, min(bptt, at_once))
    for i in range(0, len(source) - 1, rows):
        targets = source[i + 1:i + 1 + rows]
        log_p, hidden = model(source[i:i + len(targets)], hidden)        # (T, B, V)
        found.append(log_p.gather(2, targets[..., None])[..., 0].double().cpu())
    return torch.cat(found)


def run(args: argparse.Namespace) -> None:
    fabric = make_fabric_of_tool(args)
    model, known = load(Path(args.model))
    model = fabric.to_device(model)
    index = {word: i for i, word in enumerate(known)}
    with opened(args.text) as file:
        text = read_text(file, index, index[EOS], words)

    def log_p(source: Tensor) -> Tensor:
        return columns(model, source.to(fabric.device), args.bptt)

    with fabric.autocast():
        found = (independent(log_p, text, index[EOS]) if args.independent
                 else continuous(log_p, text))
    extra = {} if args.independent else closing_line(found)
    report(text, found, args, known, extra)


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    with orderly_exit("score.py"):
        run(args)


if __name__ == "__main__":
    main()
