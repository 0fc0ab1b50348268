"""Toeplitz neural network (Qin et al. 2023), free of fairseq: `from tnn import TnnModel`."""

from tnn.block import TnnBlock
from tnn.glu import GLU, GLUv2
from tnn.gtu import Gtu, GtuV1, GtuV3
from tnn.layer import TnnLayer, TnnModel
from tnn.rpe import Rpe
from tnn.tno import Tno
from tnn.toeplitz import toeplitz_plain, toeplitz_product

__all__ = ["GLU", "GLUv2", "Gtu", "GtuV1", "GtuV3", "Rpe", "TnnBlock", "TnnLayer", "TnnModel",
           "Tno", "toeplitz_plain", "toeplitz_product"]
