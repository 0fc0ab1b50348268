"""Hyperparameters of the six tasks, as the two sources of the original have them.

script: the tables of script_lra.py, which the published numbers come from. yaml: the experiment
files. The batch is that of all `gpus` processes together. Every value can be given as a flag.
"""

import argparse

# task            batch gpus layers width  tno  glu  gamma dpb_dim norm  dropout
SCRIPT_MODEL = {
    "listops":     (128, 2,   4,    128,   1,   1,    1.0,   32, "synbatch", 0.0),
    "imdb":        (32,  2,   4,    128,   1,   2,    0.9,   32, "synbatch", 0.1),
    "aan":         (64,  2,   2,    64,    1,   1.5,  0.6,   16, "synbatch", 0.0),
    "cifar":       (200, 4,   12,   128,   2,   3,    0.7,   16, "synbatch", 0.1),
    "pathfinder":  (128, 4,   6,    64,    3,   2.5,  1.0,   16, "synbatch", 0.0),
    "pathfinderx": (64,  8,   6,    64,    3,   2.5,  0.999, 16, "synbatch", 0.0),
}
# task             lr     decay  warmup epochs dpb_layers (these have no effect)
SCRIPT_TRAINING = {
    "listops":     (0.0005,  0.1,   1000,  40,  3),
    "imdb":        (0.00105, 0.001, 3000,  32,  3),
    "aan":         (0.01,    0.01,  25000, 20,  3),
    "cifar":       (0.007,   0.001, 30000, 200, 0),
    "pathfinder":  (0.001,   0.0,   5000,  200, 0),
    "pathfinderx": (0.0001,  0.0,   312,   100, 0),
}
# The yaml files have no decay, gamma 0.999 and dpb_type 4 everywhere.
YAML_MODEL = {
    "listops":     (50,  1,   6,    128,   2,   2,    None,  16, "layer",    0.0),
    "imdb":        (50,  1,   4,    64,    2,   2,    None,  16, "batch",    0.0),
    "aan":         (50,  1,   4,    128,   2,   2,    None,  16, "layer",    0.0),
    "cifar":       (50,  1,   4,    64,    2,   2,    None,  16, "layer",    0.2),
    "pathfinder":  (64,  1,   4,    128,   2,   2,    None,  16, "batch",    0.0),
    "pathfinderx": (64,  1,   4,    128,   2,   2,    None,  16, "batch",    0.0),
}
YAML_TRAINING = {
    "listops":     (0.001,   0.01,  1000,  40,  1),
    "imdb":        (0.01,    0.05,  80,    32,  1),
    "aan":         (0.001,   0.1,   800,   20,  1),
    "cifar":       (0.004,   0.05,  175,   200, 1),
    "pathfinder":  (0.0002,  0.0,   312,   200, 1),
    "pathfinderx": (0.0002,  0.0,   312,   100, 1),
}
MODEL_COLUMNS = ("batch", "gpus", "n_layers", "d_model", "expand_tno", "expand_glu", "gamma",
                 "dpb_dim", "norm", "dropout")
TRAINING_COLUMNS = ("lr", "weight_decay", "warmup", "epochs", "dpb_layers")
BLOCKS = {"script": (SCRIPT_MODEL, SCRIPT_TRAINING, 1), "yaml": (YAML_MODEL, YAML_TRAINING, 4)}
ARCHS = ("tno", "tno2d", "gtu", "gtu2d")
NORMS = ("layer", "batch", "synbatch", "instance", "simplerms", "none")  # those of norms.py
TOTAL_STEPS = 50000  # of the cosine, everywhere

DECODERS = {
    "listops": {"mode": "pool", "use_lengths": True},
    "imdb": {"mode": "pool", "use_lengths": True},
    "aan": {"_name_": "retrieval", "mode": "pool", "use_lengths": True, "nli": True,
            "activation": "gelu"},
    "cifar": {"mode": "pool"},
    "pathfinder": {"mode": "last"},
    "pathfinderx": {"mode": "last"},
}


def published_arch(task: str) -> str:
    """tno for texts, tno2d for images."""
    return "tno" if task in ("listops", "imdb", "aan") else "tno2d"


def settings_of(task: str, block: str = "script", arch: str | None = None) -> dict:
    """The hyperparameters of a task in one of the two blocks, by the names of main.py's flags."""
    model, training, dpb_type = BLOCKS[block]
    values = dict(zip(MODEL_COLUMNS, model[task], strict=True))
    values |= dict(zip(TRAINING_COLUMNS, training[task], strict=True))
    arch = arch or published_arch(task)
    if block == "yaml" and task == "pathfinderx" and arch == "tno":
        values["epochs"] = 200
    gamma = values.pop("gamma")
    return values | {"arch": arch, "use_decay": gamma is not None,
                     "gamma": 0.999 if gamma is None else gamma, "dpb_type": dpb_type,
                     "tno_max_l": 512 if arch == "gtu" else 1024, "prenorm": True,
                     "total_steps": TOTAL_STEPS}


def model_arguments(args: argparse.Namespace) -> dict:
    """Resolved flags -> the arguments backbone, decoder, position_dropout, mask_padding of
    LraModel."""
    common = {"_name_": args.arch, "n_heads": args.n_heads, "use_decay": args.use_decay,
              "gamma": args.gamma}
    if args.arch.startswith("gtu"):
        mixer = common | {"expand_ratio": args.expand_tno, "rpe_embedding": args.dpb_dim}
    else:
        mixer = common | {"tno_expand_ratio": args.expand_tno, "dpb_embedding": args.dpb_dim,
                          "dpb_type": args.dpb_type, "dpb_layers": args.dpb_layers, "tno_type": 4}
    if args.tno_max_l:
        mixer["tno_max_l"] = args.tno_max_l
    elif not args.arch.endswith("2d"):
        mixer["rpe_use_pad" if args.arch == "gtu" else "dpb_use_pad"] = False
    backbone = dict(mixer=mixer, glu={"glu_expand_ratio": args.expand_glu}, d_model=args.d_model,
                    n_layers=args.n_layers, norm=args.norm, prenorm=args.prenorm,
                    dropout=args.dropout)
    return {"backbone": backbone, "decoder": DECODERS[args.task],
            "position_dropout": args.position_dropout, "mask_padding": args.mask_padding}
