"""TNN for stock fairseq: fairseq-train --user-dir tnn/fairseq_plugin --arch tnn_v2_decay_99_pre ...

fairseq imports this folder under the name fairseq_plugin. What registers something is imported by
its full path below, so that it happens once, whichever name comes first.
"""

import argparse
import sys
from pathlib import Path

import torch

ROOT = str(Path(__file__).resolve().parents[2])
if ROOT not in sys.path:
    sys.path.append(ROOT)

# fairseq's checkpoints hold an argparse.Namespace, which torch >= 2.6 refuses to load. It is plain
# data; naming it is safer than loading arbitrary objects.
torch.serialization.add_safe_globals([argparse.Namespace])

import tnn.fairseq_plugin.language_model
import tnn.fairseq_plugin.roberta  # noqa: F401
