"""Public names of a package, each imported from its module when it is first asked for.

So `import awd_lstm`, which every script of it does, imports no torch, and -h answers at once.
"""

from collections.abc import Callable
from importlib import import_module


def lazily(package: str, homes: dict[str, tuple[str, ...]]) -> tuple[Callable, Callable]:
    """The package's `__getattr__` and `__dir__`. homes: {module below the package: its names}."""
    home_of = {name: home for home, names in homes.items() for name in names}

    def get(name: str):
        if name not in home_of:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(import_module(f"{package}.{home_of[name]}"), name)

    def names() -> list[str]:
        return sorted({*vars(import_module(package)), *home_of})

    return get, names
