"""TNN for stock fairseq: fairseq-train --user-dir tnn/fairseq_plugin --arch tnn_v2_decay_99_pre ...

fairseq imports this folder under the name fairseq_plugin. What registers or changes something is
imported by its full path below, so that it happens once, whichever name comes first.
"""

import sys
from pathlib import Path

ROOT = str(Path(__file__).resolve().parents[2])
if ROOT not in sys.path:
    sys.path.append(ROOT)

import tnn.fairseq_plugin.commands
import tnn.fairseq_plugin.language_model
import tnn.fairseq_plugin.optimizer
import tnn.fairseq_plugin.roberta
import tnn.fairseq_plugin.stock
import tnn.fairseq_plugin.words  # noqa: F401
