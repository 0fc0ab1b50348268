# ruff: noqa: UP045
"""The options of TNN layers: their command-line fields and how a layer is built from them."""

from dataclasses import dataclass, field
from typing import Optional  # fairseq cannot read "int | None"

from fairseq.models.transformer_lm import TransformerLanguageModelConfig
from fairseq.utils import safe_getattr


def _option(text: str):
    return field(default=None, metadata={"help": f"{text} (default: the architecture's)"})


@dataclass
class TnnLanguageModelConfig(TransformerLanguageModelConfig):
    """Every field is None unless given: the architecture fills in the rest."""

    decoder_embed_dim: Optional[int] = _option("model width")
    decoder_input_dim: Optional[int] = _option("embedding width")
    decoder_output_dim: Optional[int] = _option("width before the output layer")
    decoder_layers: Optional[int] = _option("number of layers")
    decoder_attention_heads: Optional[int] = _option("heads of the Toeplitz operator")
    decoder_normalize_before: Optional[bool] = _option("norm before each mixer")
    act_fun: Optional[str] = _option("activation in the token mixer")
    expand_ratio: Optional[float] = _option("inner width of the token mixer / model width")
    use_norm: Optional[bool] = _option("norm before the token mixer's last projection")
    norm_type: Optional[str] = _option("norm")
    use_decay: Optional[bool] = _option("factor gamma^|lag| on the coefficients")
    use_multi_decay: Optional[bool] = _option("learnt decay within (gamma, 1)")
    gamma: Optional[float] = _option("decay")
    rpe_embedding: Optional[int] = _option("width of the position encoder")
    rpe_layers: Optional[int] = _option("depth of the position encoder")
    rpe_act: Optional[str] = _option("activation of the position encoder")
    residual: Optional[bool] = _option("residual connections in the position encoder")
    par_type: Optional[int] = _option("the encoder sees: 1 lag, 2 share, 3 exp(share)")
    act_type: Optional[str] = _option("function applied to the coefficients")
    normalize: Optional[bool] = _option("divide outputs by the matrix's row sums")
    resi_param: Optional[bool] = _option("learnt residual scale (first unit only)")
    bias: Optional[bool] = _option("biases in projections")
    gtu_type: Optional[int] = _option("token mixer: 1, 2, 3")
    glu_type: Optional[int] = _option("channel mixer: 1, 2")
    glu_act: Optional[str] = _option("activation in the channel mixer")
    fina_act: Optional[str] = _option("activation after the channel mixer")
    glu_dim: Optional[int] = _option("hidden width of the channel mixer")
    glu_dropout: Optional[float] = _option("dropout in the channel mixer")


# TnnBlock's arguments that have the option's name, and what they are where it is not given.
SAME_NAME = {
    "dropout": 0.0, "norm_type": "simplermsnorm", "glu_act": "silu", "fina_act": "None",
    "glu_dropout": 0.0, "bias": True, "gtu_type": 2, "glu_type": 1, "act_fun": "silu",
    "expand_ratio": 3, "resi_param": False, "use_norm": False, "use_decay": False,
    "use_multi_decay": False, "rpe_layers": 3, "rpe_embedding": 512, "rpe_act": "relu",
    "normalize": False, "par_type": 1, "residual": False, "gamma": 0.99, "act_type": "none",
}


def block_options(args, side: str) -> dict:
    """TnnBlock's arguments from fairseq's; side is "decoder" (causal) or "encoder"."""
    options = {name: safe_getattr(args, name, default) for name, default in SAME_NAME.items()}
    glu_dim = safe_getattr(args, "glu_dim", 0)
    return options | {
        "width": safe_getattr(args, f"{side}_embed_dim"),
        "heads": safe_getattr(args, f"{side}_attention_heads", 1),
        "glu_dim": glu_dim if glu_dim > 0 else None,
        "pre_norm": safe_getattr(args, f"{side}_normalize_before", False),
        "causal": side == "decoder",
    }


def set_defaults(args, values: dict) -> None:
    """Sets what was not given on the command line or by a checkpoint."""
    for name, value in values.items():
        if safe_getattr(args, name) is None:
            setattr(args, name, value)
