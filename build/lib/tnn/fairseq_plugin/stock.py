"""What stock fairseq lacks beside today's numpy and torch, and to be killed at any moment.

Importing this module changes fairseq once, whatever name the plugin goes by.
"""

import argparse
import os
import types

import numpy as np
import torch
from fairseq import checkpoint_utils
from fairseq.file_io import PathManager

# numpy 2 has dropped these two names, which fairseq 0.12 still uses: every evaluation that goes
# sentence by sentence, generation and the hub interface begin with np.compat.long. Both were int.
for _name, _value in {"int": int, "compat": types.SimpleNamespace(long=int)}.items():
    if not hasattr(np, _name):
        setattr(np, _name, _value)

# What fairseq's checkpoints hold besides tensors and plain values. torch >= 2.6 refuses it unless
# it is named, and that is safer than loading arbitrary objects: an argparse.Namespace; where they
# are of release 0.1 or of the fork, numpy's numbers (under the name that numpy 1 gave them too).
_number = np.float64(0).__reduce__()[0]
torch.serialization.add_safe_globals([
    argparse.Namespace, np.dtype, *(type(np.dtype(name)) for name in ("f4", "f8", "i8")), _number,
    (_number, "numpy.core.multiarray.scalar")])


def plain(value):
    """`value` with numpy's numbers in it made Python's, in place: torch.load would refuse them. The
    metrics of a run are such numbers, and the best one is in every checkpoint."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, dict):
        for key, each in value.items():
            value[key] = plain(each)
    elif isinstance(value, list):
        value[:] = map(plain, value)
    elif type(value) is tuple:
        return tuple(map(plain, value))
    return value


def save_plain(obj, filename: str, async_write: bool = False) -> None:
    """fairseq's torch_persistent_save of plain numbers."""
    fairseq_save(plain(obj), filename, async_write)


def copy_whole(src_path: str, dst_path: str, overwrite: bool = False) -> bool:
    """fairseq's copy, but a run killed within it leaves the old file whole.

    checkpoint_last.pt and checkpoint_best.pt are such copies.
    """
    part = f"{dst_path}.part"
    copied = fairseq_copy(src_path, part, overwrite=True)
    os.replace(part, dst_path)
    return copied


fairseq_save, checkpoint_utils.torch_persistent_save = (
    checkpoint_utils.torch_persistent_save, save_plain)
fairseq_copy, PathManager.copy = PathManager.copy, staticmethod(copy_whole)
