"""Names of weights as other programs wrap them."""

from collections.abc import Mapping

WRAPPERS = ("module.", "_orig_mod.")  # DataParallel and DistributedDataParallel; torch.compile


def bare_names(state: Mapping) -> dict:
    """A state_dict without the prefixes that all of its names have because the model was wrapped
    when it was saved, in whatever order."""
    state = dict(state)
    while prefix := next((w for w in WRAPPERS if state and all(
            isinstance(name, str) and name.startswith(w) for name in state)), None):
        state = {name.removeprefix(prefix): value for name, value in state.items()}
    return state
