"""Checks of word PTB's flags."""

import argparse
import sys


def check_reading(p: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """--seq_len must leave rows to score behind the discarded history (exit code 2)."""
    if not args.eval and (args.seq_len > 0 or not args.repack) and args.seq_len <= args.horizon:
        p.error(f"--seq_len {args.seq_len} must be longer than --horizon {args.horizon}: only the "
                "rows behind the history are learnt from (or give --seq_len 0 --repack)")
    if args.repack and args.seq_len > 0:
        print("--repack with --seq_len: in training the carried state is of a later row than the "
              "next segment begins at; --seq_len 0 avoids that", file=sys.stderr)
