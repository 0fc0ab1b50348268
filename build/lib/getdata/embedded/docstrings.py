"""The docstrings of this interpreter's standard library: the text behind pydoc, pydoc-char and
aan-small.

It differs between Python versions (other docstrings), never between two runs of one.
"""

import ast
import collections
import inspect
import pathlib
import sysconfig
import warnings

SKIPPED_FOLDERS = {
    "test", "tests", "idle_test", "idlelib", "lib2to3", "ensurepip", "turtledemo", "pydoc_data",
    "site-packages", "dist-packages", "__pycache__", "__phello__", "__pyrepl__",
}  # fmt: skip


def docstrings(source):
    """Return the docstrings of a module's source bytes in file order; none if it does not parse."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # invalid escapes in other people's strings
        try:
            tree = ast.parse(source)
        except (SyntaxError, ValueError):
            return []
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    nodes = [node for node in ast.walk(tree) if isinstance(node, kinds)]
    nodes.sort(key=lambda node: getattr(node, "lineno", 0))
    texts = (ast.get_docstring(node, clean=False) for node in nodes)
    return [inspect.cleandoc(text) for text in texts if text]


def stdlib_docstrings():
    """Return {top-level module: docstrings} from the source files of this interpreter's library.

    Files are parsed, not imported. A docstring that was seen before is left out, so that no
    copied text stands both in train and in test.
    """
    root = pathlib.Path(sysconfig.get_paths()["stdlib"])
    seen, modules = set(), collections.defaultdict(list)
    for path in sorted(root.rglob("*.py"), key=lambda path: path.relative_to(root).parts):
        parts = path.relative_to(root).parts
        if SKIPPED_FOLDERS.isdisjoint(parts) and not parts[0].startswith("config-"):
            for text in docstrings(path.read_bytes()):
                if text not in seen:
                    seen.add(text)
                    modules[parts[0].removesuffix(".py")].append(text)
    return dict(modules)
