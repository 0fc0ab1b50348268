"""Checks of the flags of WikiText-103. Imports no torch."""

import argparse


def check_model(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Refuses what the split softmax cannot do (exit code 2)."""
    if args.n_experts:
        parser.error("--n_experts: the split softmax knows no mixture; word_PTB/word_ptb.py does")
    if args.emsize != args.nout:
        parser.error(f"--nout {args.nout} must equal --emsize {args.emsize}: the split softmax "
                     "decodes with vectors of that size")
