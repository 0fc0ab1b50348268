"""Training states of the first release, which called them "sparse_seq 1"."""

from harness.keeper import STATE_FORMAT
from sparse_seq.weights import is_ours

NOTHING_STORED = 1e8  # its "best validation loss" before the first


def upgrade(content: dict) -> dict:
    """Such a state with the entries that Keeper.save writes; anything else as it is.

    The present scripts' state() and own() gave their entries the names that these had there.
    """
    if not is_ours(content) or not {"progress", "processes", "script"} <= content.keys():
        return content
    folder = "language_modeling" if "kind" in content else "sequence_labeling"
    return {**content, "format": STATE_FORMAT, "script": f"sparse_seq/{folder}/{content['script']}",
            "best": "" if _stored_a_model(content) else None,
            "save": content.get("save", ""),
            "inputs": None,     # unknown; the vocabulary is compared
            "log_size": None,
            "processes": [{"random": {name: part[name] for name in ("python", "torch", "cuda")},
                           "own": {"generator": part["numpy"], "hidden": part.get("hidden")}}
                          for part in content["processes"]]}


def _stored_a_model(content: dict) -> bool:
    """Learning to recite stored one after every epoch, fine-tuning began from one."""
    p = content["progress"]
    return (p.get("best", NOTHING_STORED) < NOTHING_STORED or p.get("best_epoch", 0) > 0
            or (content["args"].get("recite", False) and p["epoch"] > 1))
