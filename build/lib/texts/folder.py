"""The three texts of a folder, under the names that they are published by."""

from collections.abc import Iterable
from pathlib import Path

SPLITS = ("train", "valid", "test")
# train.txt; as in WikiText's archives; as in Mikolov's.
NAMES = ("{}.txt", "wiki.{}.tokens", "ptb.{}.txt", "ptb.char.{}.txt")


def find_texts(folder: Path, names: tuple[str, ...] = NAMES) -> dict[str, Path]:
    """split -> file. All three have the first of `names` that one of them has.

    Raises FileNotFoundError naming the file that is missing.
    """
    found = find_some(folder, SPLITS, names)
    if missing := [split for split in SPLITS if split not in found]:
        name = next(n for n in names if next(iter(found.values())).name in map(n.format, SPLITS))
        raise FileNotFoundError(f"no {name.format(missing[0])} in {folder}")
    return found


def find_some(folder: Path, splits: Iterable[str], names: tuple[str, ...] = NAMES
              ) -> dict[str, Path]:
    """As find_texts, of those of `splits` that are there, at least one."""
    splits = tuple(splits)
    for name in names:
        texts = {split: folder / name.format(split) for split in splits}
        if found := {split: path for split, path in texts.items() if path.is_file()}:
            return found
    raise FileNotFoundError(f"no {names[0].format(splits[0])} in {folder}")
