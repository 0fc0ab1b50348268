"""TNN for stock fairseq: fairseq-train --user-dir tnn/fairseq_plugin --arch tnn_v2_decay_99_pre ...

fairseq imports this folder under the name fairseq_plugin. What registers something is imported by
its full path below, so that it happens once, whichever name comes first.
"""

import argparse
import os
import sys
from pathlib import Path

import torch
from fairseq.file_io import PathManager

ROOT = str(Path(__file__).resolve().parents[2])
if ROOT not in sys.path:
    sys.path.append(ROOT)

# fairseq's checkpoints hold an argparse.Namespace, which torch >= 2.6 refuses to load. It is plain
# data; naming it is safer than loading arbitrary objects.
torch.serialization.add_safe_globals([argparse.Namespace])


def copy_whole(src_path: str, dst_path: str, overwrite: bool = False) -> bool:
    """fairseq's copy, but a run killed within it leaves the old file whole.

    checkpoint_last.pt and checkpoint_best.pt are such copies.
    """
    part = f"{dst_path}.part"
    copied = fairseq_copy(src_path, part, overwrite=True)
    os.replace(part, dst_path)
    return copied


fairseq_copy = PathManager.copy
PathManager.copy = staticmethod(copy_whole)

import tnn.fairseq_plugin.language_model
import tnn.fairseq_plugin.roberta  # noqa: F401
