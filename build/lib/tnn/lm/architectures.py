"""The published architectures as tables of fairseq's options; the plugin registers them.

    python -m tnn.lm.architectures NAME    complains in one line, exit code 2, if it is none of them
                                           or if fairseq is missing
"""

import sys

from harness import extras

# Options of the autoregressive ones.
COMMON = dict(
    decoder_attention_heads=1, act_fun="silu", expand_ratio=3, use_norm=False,
    norm_type="simplermsnorm", use_decay=True, gamma=0.99, rpe_embedding=64, rpe_layers=6,
    residual=False, glu_act="silu", gtu_type=2, glu_type=1, decoder_layers=7,
    decoder_embed_dim=512, decoder_normalize_before=True,
)
ADAPTIVE = dict(
    decoder_layers=16, decoder_embed_dim=1024, decoder_ffn_embed_dim=4096, dropout=0.3,
    adaptive_input=True, tie_adaptive_weights=True, adaptive_input_cutoff="20000,60000",
    adaptive_softmax_cutoff="20000,60000", adaptive_softmax_dropout=0.2,
    no_decoder_final_norm=True, tie_adaptive_proj=True,
)
NARROW_RPE = dict(rpe_embedding=128, rpe_layers=1)
# What each architecture changes; glu is the channel mixer's hidden width over the model width.
ARCHITECTURES = {
    "tnn_v2_lm": {
        "tnn_v2_decay_99_pre": {},
        "tnn_v2_no_decay": dict(use_decay=False),
        "tnn_v2_decay_99_post": dict(decoder_normalize_before=False),
        "tnn_v2_decay_99_pre_usenorm": dict(use_norm=True),
        "tnn_v2_decay_99_post_usenorm": dict(use_norm=True, decoder_normalize_before=False),
        "tnn_v2_decay_99_pre_l6": dict(decoder_layers=6),
        "tnn_v2_decay_99_pre_l12": dict(decoder_layers=12, rpe_layers=1),
        "tnn_v2_decay_99_pre_l1": dict(rpe_layers=1),
        "tnn_v2_decay_99_pre_e768": dict(decoder_layers=6, decoder_embed_dim=768,
                                         decoder_input_dim=512, decoder_output_dim=512,
                                         rpe_embedding=96, rpe_layers=1),
        "tnn_v2_decay_99_pre_gluv2": dict(glu_type=2, glu=1.5),
        "tnn_v2_decay_99_pre_glu_v2_gtu_v3": dict(glu_type=2, glu=3, gtu_type=3),
        "tnn_v2_decay_99_pre_glu_v2_gtu_v3_l6": dict(glu_type=2, glu=3, gtu_type=3,
                                                     decoder_layers=6),
        "tnn_v2_decay_99_pre_ada": ADAPTIVE,
        "tnn_v2_decay_99_pre_ada_128": ADAPTIVE | NARROW_RPE,
        "tnn_v2_decay_99_pre_ada_128_small": ADAPTIVE | NARROW_RPE | dict(decoder_embed_dim=768),
        "tnn_v2_decay_99_pre_ada_128_base": ADAPTIVE | NARROW_RPE | dict(decoder_embed_dim=512),
    },
    "tnn_lm": {
        "tnn_no_decay": dict(use_decay=False, gtu_type=1),
        "tnn_decay_99": dict(gtu_type=1),
    },
}

# Options of the masked ones.
MASKED_COMMON = dict(
    encoder_layers=12, encoder_embed_dim=768, encoder_attention_heads=1, expand_ratio=3,
    use_decay=True, gamma=0.99, rpe_embedding=64, rpe_layers=6, use_norm=False,
    norm_type="simplermsnorm", residual=False, glu_act="silu", glu_type=1,
    no_token_positional_embeddings=True, encoder_normalize_before=False,
)
MASKED_ARCHITECTURES = {
    "roberta_tnn_v2": {"roberta_tnn_v2_decay_99": dict(gtu_type=2)},
    "roberta_tnn": {"roberta_tnn_decay_99": dict(gtu_type=1)},
}


def names() -> list[str]:
    """All of them, sorted."""
    tables = ARCHITECTURES | MASKED_ARCHITECTURES
    return sorted(name for table in tables.values() for name in table)


def main() -> None:
    name = sys.argv[1] if len(sys.argv) == 2 else ""
    if name not in names():
        # fairseq would list the hundred names that it knows.
        print(f"tnn: no architecture '{name}'; there are {', '.join(names())}", file=sys.stderr)
        raise SystemExit(2)
    extras.require("fairseq")


if __name__ == "__main__":
    main()
