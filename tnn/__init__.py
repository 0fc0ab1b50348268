"""Toeplitz neural network (Qin et al. 2023), free of fairseq.

    from tnn import TnnLayer, TnnModel
"""

from typing import TYPE_CHECKING

from loading.names import lazily

if TYPE_CHECKING:
    from tnn.im.model import TnnVit
    from tnn.lra.model import LraModel
    from tnn.network.block import TnnBlock
    from tnn.network.glu import GLU, GLUv2
    from tnn.network.gtu import Gtu, GtuV1, GtuV3
    from tnn.network.layer import TnnLayer, TnnModel
    from tnn.network.rpe import Rpe
    from tnn.network.tno import Tno
    from tnn.network.toeplitz import toeplitz_plain, toeplitz_product

__all__ = ["GLU", "GLUv2", "Gtu", "GtuV1", "GtuV3", "LraModel", "Rpe", "TnnBlock", "TnnLayer",
           "TnnModel", "TnnVit", "Tno", "toeplitz_plain", "toeplitz_product"]

__getattr__, __dir__ = lazily(__name__, {
    "im.model": ("TnnVit",),
    "lra.model": ("LraModel",),
    "network.block": ("TnnBlock",),
    "network.glu": ("GLU", "GLUv2"),
    "network.gtu": ("Gtu", "GtuV1", "GtuV3"),
    "network.layer": ("TnnLayer", "TnnModel"),
    "network.rpe": ("Rpe",),
    "network.tno": ("Tno",),
    "network.toeplitz": ("toeplitz_plain", "toeplitz_product")})
