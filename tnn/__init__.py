"""Toeplitz neural network (Qin et al. 2023), free of fairseq: `from tnn import TnnLayer`.

The names are looked up when they are asked for, so that `import tnn`, which every script does,
does not import torch: a mistyped flag is answered at once.
"""

from importlib import import_module

HOMES = {
    "block": ("TnnBlock",),
    "glu": ("GLU", "GLUv2"),
    "gtu": ("Gtu", "GtuV1", "GtuV3"),
    "layer": ("TnnLayer", "TnnModel"),
    "rpe": ("Rpe",),
    "tno": ("Tno",),
    "toeplitz": ("toeplitz_plain", "toeplitz_product"),
}
HOME_OF = {name: home for home, names in HOMES.items() for name in names}
__all__ = ["GLU", "GLUv2", "Gtu", "GtuV1", "GtuV3", "Rpe", "TnnBlock", "TnnLayer", "TnnModel",
           "Tno", "toeplitz_plain", "toeplitz_product"]


def __getattr__(name: str):
    if name not in HOME_OF:
        raise AttributeError(f"module 'tnn' has no attribute {name!r}")
    return getattr(import_module(f"tnn.network.{HOME_OF[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
