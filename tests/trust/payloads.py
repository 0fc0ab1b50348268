"""Files that run code when they are read with trust: each would make the canary file."""

import argparse
import functools
import hashlib
import io
import operator
import os
import pickle
import pydoc
import subprocess
import tarfile
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import torch
from torch.utils import collect_env


class Call:
    """Unpickled, it is what the function returns."""

    def __init__(self, function, *args):
        self.call = function, args

    def __reduce__(self):
        return self.call


class Model(torch.nn.Linear):
    """A whole model as the originals saved it, with a surprise."""

    def __init__(self, surprise: Call):
        super().__init__(2, 2)
        self.surprise = surprise


def saved(content, **how) -> bytes:
    """What torch.save makes of it."""
    buffer = io.BytesIO()
    torch.save(content, buffer, **how)
    return buffer.getvalue()


def sealed(content: dict) -> bytes:
    """With the checksum of release 0.1, the archive's comment, which anyone can compute."""
    file = bytearray(saved(content))
    file[-2:] = (64).to_bytes(2, "little")
    return bytes(file) + hashlib.sha256(file).hexdigest().encode()


def payloads(canary: Path) -> dict[str, bytes]:
    """name -> content of the file."""
    shell, code = f"touch {canary}", f"open({str(canary)!r}, 'w').close()"
    touch = Call(os.system, shell)
    quoted = repr(shell).encode()
    return {
        "os.system, protocol 0": pickle.dumps(touch, 0),
        "os.system, protocol 2": pickle.dumps(touch, 2),
        "os.system, protocol 5": pickle.dumps(touch, 5),
        "exec": pickle.dumps(Call(exec, code), 2),
        "eval": pickle.dumps(Call(eval, code), 4),
        "subprocess": pickle.dumps(Call(subprocess.call, ["touch", str(canary)]), 2),
        "Path.touch": pickle.dumps(Call(Path.touch, canary), 2),
        "functools.partial": pickle.dumps(
            Call(operator.call, functools.partial(os.system, shell)), 2),
        "operator.methodcaller": pickle.dumps(
            Call(operator.call, operator.methodcaller("touch"), canary), 2),
        "pydoc.locate and getattr": pickle.dumps(
            Call(operator.call, Call(getattr, Call(pydoc.locate, "os"), "system"), shell), 2),
        "INST opcode": b"(S" + quoted + b"\nios\nsystem\n.",
        "OBJ opcode": b"(cos\nsystem\nS" + quoted + b"\no.",
        "torch's own helper": saved({"model": Call(collect_env.run, shell)}),
        "torch zip": saved({"model": touch}),
        "torch zip, deep in the optimizer": saved(
            {"model": {}, "optimizer": {"state": {0: {"step": [1, (2, touch)]}}}}),
        "torch zip, as a key": saved({Call(os.system, shell): torch.zeros(2)}),
        "torch zip, in an OrderedDict": saved(OrderedDict(weight=torch.zeros(2), last=touch)),
        "torch zip, in a parameter": saved(
            {"w": Call(torch._utils._rebuild_parameter, touch, True, OrderedDict())}),
        "torch zip with our checksum": sealed({"model": touch}),
        "torch legacy": saved({"model": touch}, _use_new_zipfile_serialization=False),
        "torch legacy tar": tar_of(touch),
        "whole model": saved(Model(touch)),
        "whole model, legacy": saved([Model(touch), 1, 2], _use_new_zipfile_serialization=False),
        "Namespace": saved({"args": argparse.Namespace(surprise=touch), "model": {}}),
        "numpy objects": numpy_objects(touch),
        "zip of numpy objects": npz_of(touch),
    }


def tar_of(touch: Call) -> bytes:
    """PyTorch's first format."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name in ("sys_info", "pickle", "storages", "tensors"):
            content = pickle.dumps(touch, 2)
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def numpy_objects(touch: Call) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.array([touch], dtype=object), allow_pickle=True)
    return buffer.getvalue()


def npz_of(touch: Call) -> bytes:
    """Under every name that a file of ours has."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name in ("train", "valid", "test", "words", "train_images", "train_labels",
                     "test_images", "test_labels"):
            archive.writestr(f"{name}.npy", numpy_objects(touch))
    return buffer.getvalue()


def run_it(content: bytes, path: Path) -> None:
    """Reads it with trust, in every way that might."""
    path.write_bytes(content)
    for read in (lambda: torch.load(path, weights_only=False),
                 lambda: pickle.loads(content),
                 lambda: np.load(io.BytesIO(content), allow_pickle=True)["train"]):
        try:
            read()
        except Exception:  # it may well fail after it has run
            continue
