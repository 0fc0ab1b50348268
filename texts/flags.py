"""What every score.py is told, and how a model meets other texts. Imports no torch: -h and typing
mistakes answer at once."""

import argparse

READING = """\
How the text is read. By default it is one continuous text, as in the paper's evaluation: {carry}.
Each line's end is a token (<eos>), which is predicted and counts. With --independent each line is
scored by itself, from a zero state behind a line's end: all its words are predicted, and its end.
Perplexity per token: exp(-log-probability / predicted tokens), line ends among them. Per word: the
same log-probability over the white-space separated words alone. Logarithms are natural ones.
Unknown words are scored as <unk>, counted and named."""
CARRY = ("the model's state is carried from line to line, and the first token of all, which "
         "nothing precedes, is not predicted")

CLOSING = ("The closing test of main.py, finetune.py (without --exact-loss) divides by one token "
           "more than it predicts, as the published numbers do: its line is printed too.")


def describe(parser: argparse.ArgumentParser, carry: str = CARRY, more: str = "") -> None:
    """The definition of the numbers, below the flags in -h. carry: what continuous text means."""
    parser.epilog = " ".join((READING.format(carry=carry) + " " + more).split())


def add_text(parser: argparse.ArgumentParser, model: str) -> None:
    """MODEL, TEXT and how the scores are printed."""
    parser.add_argument("model", metavar="MODEL", help=model)
    parser.add_argument("text", metavar="TEXT", nargs="?", default="-",
                        help="text file, UTF-8, a sentence a line; - for standard input")
    g = parser.add_argument_group("scores")
    g.add_argument("--independent", action="store_true",
                   help="each line by itself, from a zero state")
    g.add_argument("--per-token", action="store_true", help="also each token's log-probability")
    g.add_argument("--totals", action="store_true", help="the totals alone, no line per sentence")
    g.add_argument("--json", action="store_true",
                   help="one JSON object: the totals, and `sentences`, each with its numbers")


def add_bptt(parser: argparse.ArgumentParser) -> None:
    """--bptt of a recurrent model."""
    parser.add_argument("--bptt", type=int, default=70, help="tokens pushed through at a time: a "
                        "matter of memory, not of the result")


def add_vocabulary(group, but: str = "") -> None:
    """--vocabulary of what trains on from a model. but: where it cannot be, behind the help."""
    group.add_argument("--vocabulary", default="model", choices=("model", "data"),
                       help="going on from a trained model with other texts: with its words, "
                            "unknown ones read as <unk>; or with the texts' words, new ones with "
                            f"new vectors{but}")
