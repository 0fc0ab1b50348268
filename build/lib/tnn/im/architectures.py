"""The published architectures of the image models. No torch: -h lists the names."""


def _arch(dim, gamma, rpe=48, prenorm=True, patch=16):
    return {"patch_size": patch, "embed_dim": dim, "rpe_embdding": rpe, "num_heads": 1,
            "glu_dim": dim, "depth": 12, "expand_ratio": 3, "use_pos": False, "use_decay": True,
            "gamma": gamma, "rpe_layers": 1, "prenorm": prenorm}


# Without their prefix, tnn_vit_ or tno_vit_.
ARCHITECTURES = {
    "e3g1_tiny_rpe_l1_95": _arch(192, 0.95, prenorm=False),
    "e3g1_tiny_rpe_l1_95_prenorm": _arch(192, 0.95),
    "e3g1_tiny_rpe_l1_90_prenorm": _arch(192, 0.9),
    "e3g1_small_rpe_l1_90_prenorm": _arch(384, 0.9),
    "e3g1_small_rpe_l1_95_prenorm": _arch(384, 0.95),
    "e3g1_small_rpe_l1_90_prenorm_large_rpe": _arch(384, 0.9, rpe=64),
    "e3g1_large_rpe_l1_90_prenorm": _arch(512, 0.9),
    "e3g1_large_rpe_l1_90_prenorm_p14": _arch(512, 0.9, patch=14),
    "e3g1_big_rpe_l1_90_prenorm": _arch(768, 0.9),
}


def arguments_of(name: str) -> dict:
    """Arguments of tnn.im.model.TnnVit. Raises ValueError for an unknown name."""
    bare = name.removeprefix("tnn_vit_").removeprefix("tno_vit_")
    if bare == name or bare not in ARCHITECTURES:
        raise ValueError(f"no model {name}; there are " +
                         ", ".join(f"tnn_vit_{known}" for known in ARCHITECTURES))
    return ARCHITECTURES[bare]
