"""Reading a recorded case: tensors by name, configuration from the metadata."""

import json
from pathlib import Path

import torch
from safetensors import safe_open


class Case:
    """One safetensors file. case["name"] is a tensor; case.meta(name) a JSON value."""

    def __init__(self, path: Path):
        self._file = safe_open(str(path), "pt")
        self.names = list(self._file.keys())
        self._meta = self._file.metadata() or {}

    def __getitem__(self, name: str) -> torch.Tensor:
        return self._file.get_tensor(name)

    def __contains__(self, name: str) -> bool:
        return name in self.names

    def get(self, name: str):
        return self._file.get_tensor(name) if name in self.names else None

    def below(self, prefix: str) -> dict[str, torch.Tensor]:
        """All tensors whose name starts with prefix, by the rest of the name."""
        return {n[len(prefix):]: self[n] for n in self.names if n.startswith(prefix)}

    def meta(self, name: str, default=None):
        text = self._meta.get(name)
        if text is None:
            return default
        try:
            return json.loads(text)
        except ValueError:
            return text

    def text(self, name: str) -> str:
        return self.bytes(name).decode()

    def bytes(self, name: str) -> bytes:
        return bytes(self[name].tolist())


def close(ours: torch.Tensor, theirs: torch.Tensor, atol: float = 1e-5, rtol: float = 0,
          what: str = "") -> None:
    """Asserts |ours - theirs| <= atol + rtol |theirs|, nan equal to nan, and shows the error."""
    torch.testing.assert_close(torch.as_tensor(ours, dtype=theirs.dtype), theirs, atol=atol,
                               rtol=rtol, equal_nan=True, msg=lambda text: f"{what}: {text}")


def grad_close(ours: torch.Tensor, theirs: torch.Tensor, what: str = "") -> None:
    """The tolerance of gradients and of parameters after a step."""
    close(ours, theirs, 1e-5, 1e-4, what)
