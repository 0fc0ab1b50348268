"""Checks of word PTB's flags. Imports no torch."""

import argparse


def check_reading(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """--seq_len must leave rows to score behind the discarded history (exit code 2)."""
    if not args.eval and (args.seq_len > 0 or not args.repack) and args.seq_len <= args.horizon:
        parser.error(
            f"--seq_len {args.seq_len} must be longer than --horizon {args.horizon}: only the rows "
            "behind the history are learnt from (or give --seq_len 0 --repack)")
