"""Weights in a file of ours, or in an original's state_dict, with or without weight drop."""

from torch import Tensor, nn

from loading.weights import bare_names

FORMAT = "sparse_seq 1"  # of model and optimizer files


def is_ours(content: dict) -> bool:
    return content.get("format") == FORMAT


def weights_of(content: dict) -> dict[str, Tensor]:
    """The state_dict in a file of ours, or an original's. Raises ValueError if there is none."""
    if not is_ours(content):
        return content
    if "model" not in content:
        raise ValueError("a file of this toolkit, but one without a model in it")
    return content["model"]


def load_weights(model: nn.Module, state: dict[str, Tensor]) -> None:
    """Loads a state_dict of ours or of the original, made with or without weight drop.

    The two forms of a name (weight_hh_l0; module.weight_hh_l0_raw) are translated to this model's;
    an alias beside a _raw entry, which recent PyTorch wrote, is ignored.
    Raises ValueError naming the first entry that is missing, left over or of another shape.
    """
    def bare(key: str) -> str:
        return key.replace(".module.", ".").removesuffix("_raw")

    state = bare_names(state)
    # The _raw entries come last and so replace their aliases, which hold some step's dropped copy.
    given = {bare(key): state[key] for key in sorted(state, key=lambda key: key.endswith("_raw"))}
    renamed = {}
    for key, own in model.state_dict().items():
        found = given.pop(bare(key), None)
        if not isinstance(found, Tensor) or found.shape != own.shape:
            there = tuple(found.shape) if isinstance(found, Tensor) else "none"
            raise ValueError(f"the weights do not fit: {key} should be {tuple(own.shape)}, "
                             f"there is {there}")
        renamed[key] = found
    if given:
        raise ValueError(f"the weights do not fit: {next(iter(given))} is not in this model")
    model.load_state_dict(renamed)
