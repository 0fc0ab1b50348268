"""Scores any text with a trained autoregressive TNN: log-probability and perplexity, per sentence
and in all.

    python tnn/lm/score.py CHECKPOINT mine.txt --bpe tnn/data/gpt2-bpe
    echo "The history of" | python tnn/lm/score.py CHECKPOINT --independent --per-token

With --bpe the text is plain text; otherwise tokens of the dictionary, separated by blanks. The test
text that the model's data were made of gets the perplexity that fairseq-validate prints.
"""

import sys
from argparse import Namespace
from functools import cache
from pathlib import Path

if __package__ in (None, ""):
    sys.path[0] = str(Path(__file__).resolve().parents[2])

from harness import flags
from harness.endings import BadInput, orderly_exit
from texts import flags as text_flags

BLOCKS = ("it is cut into blocks of --block tokens, each predicted from those of its block and the "
          "one before the block (the first of all from a line's end)")


def parse_args(argv: list[str] | None = None) -> Namespace:
    p = flags.parser("Scores a text with a trained autoregressive TNN")
    text_flags.describe(p, BLOCKS)
    text_flags.add_text(p, "checkpoint of fairseq-train")
    p.add_argument("--data", metavar="DIR",
                   help="folder with the dictionary, for a checkpoint that does not hold it "
                        "(None: the data it was trained on)")
    p.add_argument("--bpe", metavar="FOLDER", help="encoder.json and vocab.bpe of GPT-2")
    p.add_argument("--block", type=int, metavar="N",
                   help="tokens of a block (None: as in training)")
    flags.add_machine(p, cuda=False)
    args = flags.parse(p, argv)
    flags.check(p, args, positive=("block",))
    return args


if __name__ == "__main__":
    parse_args()  # -h and typing mistakes answer before torch is imported

import torch
from torch import Tensor

from harness.machine import make_fabric_of_tool
from texts.scores import AT_ONCE, independent, report
from texts.sentences import Text, opened, read_text, words
from tnn.lm.checkpoint import DECODER, load
from tnn.lm.generate import codec


class Columns:
    """log p of source[1:] (T, B) given the rows above: (T-1, B) float64 on the CPU, by `model` of
    fairseq on `device`."""

    def __init__(self, model, words: int, device: torch.device):
        self.model, self.words, self.device = model, words, device

    @torch.no_grad()
    def __call__(self, source: Tensor) -> Tensor:
        tokens = source.t().to(self.device)                                      # (B, T)
        rows = max(1, AT_ONCE // (self.words * tokens.shape[1]))
        return torch.cat([self._block(part) for part in tokens.split(rows)]).t().cpu()

    def _block(self, tokens: Tensor) -> Tensor:
        found = self.model(tokens[:, :-1])
        log_p = self.model.get_normalized_probs(found, log_probs=True)           # (b, T-1, V)
        return log_p.gather(2, tokens[:, 1:, None])[..., 0].double()


def continuous(columns: Columns, text: Text, end: int, block: int) -> Tensor:
    """(N,) float64, as fairseq reads a text: in blocks, each behind the token before it."""
    ids = torch.cat([text.ids.new_tensor([end]), text.ids])
    whole = len(text.ids) // block
    found = []
    if whole:
        source = torch.stack([ids[i * block:(i + 1) * block + 1] for i in range(whole)], 1)
        found.append(columns(source).t().flatten())
    if whole * block < len(text.ids):
        found.append(columns(ids[whole * block:, None])[:, 0])
    return torch.cat(found)


def byte_pairs(encode, decode):
    """A tokeniser (see texts.sentences) for text: a word ends where the next token begins with
    white space."""
    spell = cache(lambda token: decode([token]))

    def tokenise(line: str) -> tuple[list[str], list[bool]]:
        tokens = encode(line)
        following = [*map(spell, tokens[1:]), " "] if tokens else []
        return tokens, [not spell(token).isspace() and after[:1].isspace()
                        for token, after in zip(tokens, following, strict=True)]
    return tokenise


def run(args: Namespace) -> None:
    encode, decode = codec(args.bpe)
    fabric = make_fabric_of_tool(args)
    model, task = load(args.model, args.data, DECODER)
    dictionary, block = task.source_dictionary, args.block or task.args.tokens_per_sample
    if task.args.add_bos_token:
        raise BadInput(f"{args.model}: models trained with --add-bos-token are not supported")
    with opened(args.text) as file:
        text = read_text(file, dictionary.indices, dictionary.eos(),
                         byte_pairs(encode, decode) if args.bpe else words, dictionary.unk_word)
    columns = Columns(fabric.to_device(model), len(dictionary), fabric.device)
    with fabric.autocast():
        found = (independent(columns, text, dictionary.eos()) if args.independent
                 else continuous(columns, text, dictionary.eos(), block))
    report(text, found, args, {i: decode([dictionary[i]]) or dictionary[i]
                               for i in text.ids.unique().tolist()})


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    with orderly_exit("score.py"):
        run(args)


if __name__ == "__main__":
    main()
