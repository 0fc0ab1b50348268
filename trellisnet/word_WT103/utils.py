"""Checks of the flags of WikiText-103."""

import argparse


def check_model(p: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Refuses what the split softmax cannot do (exit code 2)."""
    if args.n_experts:
        p.error("--n_experts: the split softmax knows no mixture; word_PTB/word_ptb.py does")
    if args.emsize != args.nout:
        p.error(f"--nout {args.nout} must equal --emsize {args.emsize}: the split softmax decodes "
                "with vectors of that size")
    if args.seq_len and args.seq_len < args.horizon:
        p.error(f"--seq_len {args.seq_len} is shorter than --horizon {args.horizon}")
