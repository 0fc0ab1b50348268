"""What pip must install for a script: a missing package is answered with one line.

    python -m harness.extras fairseq        nothing, or the line and exit code 2

pyproject.toml lists the extras; the models themselves need none of them.
"""

import importlib.util
import os
import platform
import sys
import traceback

# What is imported -> the extra that brings it.
EXTRAS = {
    "lightning_fabric": "train", "tensorboard": "train", "tqdm": "train", "filelock": "train",
    "torchvision": "images", "timm": "images", "PIL": "images",
    "fairseq": "lm",
    "requests": "data", "sklearn": "data",
    "matplotlib": "report", "jinja2": "report",
}
# Where fairseq's wheel can be installed.
FAIRSEQ = ("Python 3.11 on Linux x86_64", "Python 3.12 on Linux x86_64")


def advice(error: BaseException) -> str | None:
    """What to do about a package that cannot be imported, or None if `error` says nothing of one
    that an extra brings."""
    if not isinstance(error, ModuleNotFoundError) or not error.name:
        return None
    module = error.name.split(".")[0]
    if module in ("torch", "numpy"):
        return f"{module} is not installed: make setup in a checkout, or pip install torch numpy"
    if module not in EXTRAS:
        return None
    here = (f"Python {sys.version_info[0]}.{sys.version_info[1]} on {platform.system()} "
            f"{platform.machine()}")
    if module == "fairseq" and here not in FAIRSEQ:
        return (f"TNN's language models need fairseq, which has no wheel for {here}: use Python "
                "3.11 or 3.12 on Linux (x86_64); everything else runs here")
    return (f"{module} is not installed: pip install 'sequence-papers[{EXTRAS[module]}]' "
            "(in a checkout: make setup)")


def explain_missing() -> None:
    """From now on a missing package ends the program with one line and exit code 2, instead of a
    traceback, wherever it is imported."""
    if sys.excepthook is sys.__excepthook__:
        sys.excepthook = _answer


def _answer(kind, error, trace) -> None:
    found = advice(error)
    if found is None:
        sys.__excepthook__(kind, error, trace)
        return
    if os.environ.get("HARNESS_TRACEBACK", "0") not in ("", "0"):
        traceback.print_exception(kind, error, trace)
    print(f"{os.path.basename(sys.argv[0])}: {found}", file=sys.stderr, flush=True)
    sys.exit(2)


def require(module: str) -> None:
    """Exits with the line and code 2 if the module is not installed."""
    if importlib.util.find_spec(module) is None:
        print(advice(ModuleNotFoundError(name=module)), file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    require(sys.argv[1])
