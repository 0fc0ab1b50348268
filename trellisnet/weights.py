"""The original's names for the weights, so that its files load here and ours load there.

The original registers the network twice and wraps it, so one tensor has several keys:

    tnet.bias2                  tnet.module.full_conv.bias2, network.0.module.full_conv.bias2
    mixsoft.prior.weight        mixsoft.prior.weight,        network.1.prior.weight
    decoder.weight (mixture)    decoder.weight, mixsoft.decoder.weight, network.1.decoder.weight
"""

import re
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from loading.weights import bare_names

# Their key -> ours; tried in this order.
RENAMED = (
    (r"^(?:tnet|network\.0)\.module\.full_conv\.", "tnet."),
    (r"^(?:mixsoft|network\.1)\.decoder\.", "decoder."),
    (r"^network\.1\.", "mixsoft."),
)


def original_state(model: nn.Module) -> dict[str, Tensor]:
    """state_dict under the original's keys, in its order, duplicates included."""
    own = {name: value.detach().contiguous() for name, value in model.state_dict().items()}
    network = {name.removeprefix("tnet."): value for name, value in own.items()
               if name.startswith("tnet.")}
    mixture = {name.removeprefix("mixsoft."): value for name, value in own.items()
               if name.startswith("mixsoft.")}
    rest = {name: value for name, value in own.items()
            if not name.startswith(("tnet.", "mixsoft."))}
    inner = {f"network.0.module.full_conv.{name}": value for name, value in network.items()}
    if "encoder.weight" not in own:  # the classifier
        return inner | rest
    if mixture:
        mixture |= {name: value for name, value in rest.items() if name.startswith("decoder.")}
    outer = {f"tnet.module.full_conv.{name}": value for name, value in network.items()}
    return (rest | outer | {f"mixsoft.{name}": value for name, value in mixture.items()}
            | inner | {f"network.1.{name}": value for name, value in mixture.items()})


def load_original_state(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Loads a state_dict with the original's keys (with or without duplicates, of which the later
    wins, and whatever wrapped the model, see loading.weights) or with ours.

    Raises ValueError that says what does not fit, and then leaves the model as it was.
    """
    if not all(isinstance(name, str) for name in state):
        raise ValueError("the file's keys are no names: it is no state_dict")
    found: dict[str, Tensor] = {}
    for name, value in bare_names(state).items():
        for pattern, ours in RENAMED:
            name, changed = re.subn(pattern, ours, name)
            if changed:
                break
        found[name] = value
    wanted = model.state_dict()
    if "decoder.weight" in wanted and wanted["decoder.weight"] is not None:
        found.setdefault("decoder.weight", found.get("encoder.weight"))
    complain_about(found, wanted)
    if getattr(model, "tie_weights", False) and not torch.equal(found["encoder.weight"],
                                                                found["decoder.weight"]):
        raise ValueError("the file's decoder is not its embedding: it needs --no-tied")
    model.load_state_dict(found)


def complain_about(found: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> None:
    """Raises ValueError if names or shapes differ, naming the flag that explains it if one does."""
    if not all(isinstance(value, Tensor) for value in found.values() if value is not None):
        raise ValueError("the file holds other things than tensors: it is no state_dict")
    for flag, mark in (("--wnorm", "tnet.weight1_g"), ("--n_experts", "mixsoft.prior.weight")):
        if (mark in found) != (mark in wanted):
            has, give = ("has", "needs") if mark in found else ("does not have", "must go without")
            raise ValueError(f"the file {has} {mark}: it {give} {flag}")
    if missing := sorted(set(wanted) - {n for n, v in found.items() if v is not None}):
        raise ValueError(f"the file lacks {', '.join(missing)}")
    if extra := sorted(set(found) - set(wanted)):
        raise ValueError(f"the file has {', '.join(extra)}, which the model does not")
    for name, value in found.items():
        if value.shape != wanted[name].shape:
            raise ValueError(f"{name} is {tuple(value.shape)} in the file, "
                             f"{tuple(wanted[name].shape)} in the model: the sizes differ")
