"""Scores any text with a trained model: log-probability and perplexity, per sentence and in all.

    python score.py Trellis_wordPTB.pt mine.txt
    echo "the company said" | python score.py Trellis_wordPTB.pt --independent --per-token
    python score.py Trellis_wordPTB.pt word_PTB/data/penn/test.txt --totals --like-test
    -> the test perplexity that word_ptb.py ends with
    python score.py trellisnet_ptb.pkl mine.txt --task word_PTB      (the released weights)
"""

import sys
from argparse import Namespace
from pathlib import Path

if __package__ in (None, ""):
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from harness import flags
from texts import flags as text_flags
from trellisnet.args import add_trained

LIKE_TEST = """\
Where the script that trained the model discards history (word PTB: the first --horizon outputs of
every segment), each token is predicted from at least that much history or all there is before it.
--like-test reads the text as that script reads its test text, in so many columns side by side, the
first --horizon tokens of each not predicted: the same text, the same perplexity."""


# ------------------------------------------------------------------------------------- settings
def parse_args(argv: list[str] | None = None) -> Namespace:
    p = flags.parser("Scores a text with a trained TrellisNet language model")
    text_flags.describe(p, more=LIKE_TEST)
    text_flags.add_text(p, "model file of word_ptb.py, word_wt103.py or char_ptb.py, or an "
                            "original's state_dict (with --task and --data)")
    p.add_argument("--like-test", action="store_true",
                   help="read the text as the training script reads its test text")
    add_trained(p)
    flags.add_machine(p)
    args = flags.parse(p, argv)
    if args.like_test and args.independent:
        p.error("--like-test reads continuous text: without --independent")
    return args


if __name__ == "__main__":
    parse_args()  # -h and typing mistakes answer before torch is imported

import math

import torch
from torch import Tensor

from common.splitcross import perplexity
from harness.endings import BadInput, orderly_exit
from harness.machine import make_fabric_of_tool
from texts.scores import continuous, independent, of_targets, report
from texts.sentences import Text, characters, opened, read_text, words
from trellisnet.lm import Reading, TrainingLoss, batchify, reading, segments
from trellisnet.trained import Trained, load_trained, log_probability

COLUMNS = {"word_PTB": 12, "word_WT103": 1, "char_PTB": 10}  # of the scripts' test texts


# -------------------------------------------------------------------------------------- the text
def tokeniser(trained: Trained):
    """How the model's texts were cut into tokens."""
    if trained.task != "char_PTB":
        return words
    return spaced_characters if trained.spaced else characters


def spaced_characters(line: str) -> tuple[list[str], list[bool]]:
    """Of lines like `t h e _ c a t`; raises BadInput for others."""
    found = line.split()
    if any(len(each) > 1 for each in found):
        raise BadInput("the model was trained on characters that stand apart (t h e _ c a t), the "
                       f"text has the word {max(found, key=len)!r}: write it in the same way")
    return found, [after == "_" and each != "_"
                   for each, after in zip(found, [*found[1:], "_"], strict=True)] if found else []


# -------------------------------------------------------------------------------------- the scores
def reading_of(settings: Namespace) -> Reading:
    """As the scripts read their validation and test texts."""
    return reading(settings.seq_len, settings.horizon, settings.repack)


@torch.no_grad()
def columns(loss: TrainingLoss, source: Tensor, how: Reading, from_start: bool = True) -> Tensor:
    """log p of source[1:] (T, B) given the rows above, each column from a zero state: (T-1, B).
    from_start: the first segment's history, which begins with the text, is long enough; otherwise
    its first how.start rows are not predicted (nan)."""
    model = loss.model
    hidden = model.init_hidden(source.shape[1])
    found = torch.full((len(source) - 1, source.shape[1]), math.nan, dtype=torch.float64)
    for i in range(0, len(source) - 1, how.stride):
        length = min(how.length, len(source) - 1 - i)
        start = 0 if i == 0 and from_start else how.start
        if length <= start:
            break
        out = model(source[i:i + length], hidden, start)
        targets = source[i + 1 + start:i + 1 + length]
        found[i + start:i + length] = of_targets(
            lambda output: log_probability(loss, output), out.dropped.flatten(0, 1),
            targets.flatten(), model.encoder.num_embeddings).view(targets.shape)
        hidden = out.hidden if how.carry else hidden
    return found


def like_test(trained: Trained, text: Text, log_p) -> Tensor:
    """(N,) float64 of a text in the columns of the training script. Raises BadInput."""
    count = COLUMNS[trained.task]
    how = reading_of(trained.settings)
    if not any(True for _ in segments(len(text.ids) // count, how)):
        raise BadInput(f"--like-test: a text of {len(text.ids)} tokens is too short for {count} "
                       f"columns of more than {how.start + 1}: without it every token counts")
    source = batchify(text.ids, count)
    found = torch.full(text.ids.shape, math.nan, dtype=torch.float64)
    first = torch.full((1, count), math.nan, dtype=torch.float64)
    found[:source.numel()] = torch.cat([first, log_p(source, False)]).t().flatten()
    return found


def run(args: Namespace) -> None:
    fabric = make_fabric_of_tool(args)
    trained = load_trained("MODEL", args.model, args, fabric)
    with opened(args.text) as file:
        text = read_text(file, trained.index, trained.end, tokeniser(trained))
    how, extra = reading_of(trained.settings), {}

    def log_p(source: Tensor, from_start: bool = True) -> Tensor:
        return columns(trained.loss, source.to(fabric.device), how, from_start)

    with fabric.autocast():
        if args.like_test:
            found = like_test(trained, text, log_p)
            mean = -float(found.nanmean())
            extra = {"test_loss": mean, "test_ppl": perplexity(mean), "test_line":
                     f"test loss {mean:5.2f} | test ppl {perplexity(mean):8.2f} "
                     f"| test bpc {mean / math.log(2):8.3f}"}
        else:
            found = (independent(log_p, text, trained.end) if args.independent
                     else continuous(log_p, text))
    report(text, found, args, trained.words, extra)


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    with orderly_exit("score.py"):
        run(args)


if __name__ == "__main__":
    main()
