"""The names of a run's files. They are appended to what the user typed, so that no two runs share
one: PTB.pt, PTB.pt.state, PTB.pt.finetune.state, .PTB.pt.lock."""

import contextlib
import os
import time
from argparse import Namespace
from pathlib import Path
from typing import Any

from harness import files, flags
from harness.endings import BadInput, bad_input

# Of the files that a run writes beside --save; a --save of that name would be another run's file.
ENDINGS = (".state", ".finetune", ".prev", ".lock", ".part", ".link")


class Places:
    """Where the run writes that the flag `where` names, usually --save.

    folder: the flag names a folder with the files `best` and `state` in it. Otherwise it names the
        file of the best model, and the state is that name with .state, or .LABEL.state, after it.
    also: further files that the run writes: in the folder, or endings put after the file's name.
    label_0_1: the label in release 0.1, where it was another.
    """

    def __init__(self, args: Namespace, where: str = "save", folder: bool = False,
                 best: str = "model.pt", state: str = "state.pt", label: str = "",
                 also: tuple[str, ...] = (), label_0_1: str | None = None):
        self.args, self.where, self.folder = args, where, folder
        self._best, self._state, self.label, self._also = best, state, label, also
        self._label_0_1 = label if label_0_1 is None else label_0_1

    @property
    def given(self) -> Any:
        """The flag's value, a string; empty or None: nothing is written."""
        return getattr(self.args, self.where, None)

    @property
    def flag(self) -> str:
        """The flag as typed."""
        return flags.typed(self.args, self.where)

    @property
    def best(self) -> Path:
        """The best model's file."""
        return Path(self.given) / self._best if self.folder else Path(self.given)

    @property
    def state(self) -> Path:
        """The training state's file."""
        if self.folder:
            return Path(self.given) / self._state
        return Path(f"{self.given}{f'.{self.label}' if self.label else ''}.state")

    @property
    def state_0_1(self) -> Path:
        """The name it had in release 0.1."""
        ending = f".{self._label_0_1}.state.pt" if self._label_0_1 else ".state.pt"
        return self.state if self.folder else Path(self.given).with_suffix(ending)

    @property
    def also(self) -> list[Path]:
        return [Path(self.given) / each if self.folder else Path(f"{self.given}{each}")
                for each in self._also]

    @property
    def lock(self) -> Path:
        save = Path(os.path.realpath(self.given))
        return save / ".lock" if self.folder else save.with_name(f".{save.name}.lock")

    @property
    def name(self) -> str:
        """What the run's curves are called."""
        name = Path(self.given).resolve().name
        return f"{name}.{self.label}" if self.label else name

    def is_own(self, state: dict) -> bool:
        """Did this run write the state, or is this one a copy of it? One that is reached by another
        path, over a link or `..`, is still the same."""
        return os.path.realpath(state["save"]) == os.path.realpath(self.given)

    def holds(self, file: Path) -> bool:
        """Is the file in the run's folder? A folder is copied whole."""
        return self.folder and file.resolve().parent == Path(self.given).resolve()

    def check(self, tunes: bool = False, resumes: bool = False) -> None:
        """Makes the folder where it is missing. Raises BadInput if nothing can be written there:
        better now than after an epoch; and, unless the run `resumes`, for a name that may be that
        of another run's file. tunes: the model that the run begins from must be there."""
        flag = f"{self.flag} {self.given}"
        if not (self.folder or tunes or resumes):
            for ending in (*ENDINGS, *self._also):
                if self.given.endswith(ending):
                    raise BadInput(f"{flag}: names that end in {ending} are those of a run's other "
                                   "files: give another name")
        if tunes and not self.best.exists():
            raise BadInput(f"{self.flag}: there is no file {self.best}")
        if not self.folder and (Path(self.given).is_dir() or self.given.endswith(os.sep)):
            raise BadInput(f"{flag} is a folder: give the name of a file")
        parent = self.best.parent
        try:
            parent.mkdir(parents=True, exist_ok=True)
            with contextlib.suppress(FileNotFoundError):
                os.lstat(parent / f".{self.state.name}.prev.part")  # the longest of its names
        except OSError as error:
            raise BadInput(f"{flag}: {error.strerror}: {parent}") from error
        if not os.access(parent, os.W_OK):
            raise BadInput(f"{flag}: the folder {parent} is read-only")

    def find_state(self) -> Path:
        """The state of this run, perhaps under its name in release 0.1. Raises BadInput."""
        if not self.given:
            raise BadInput(f"--resume needs {self.flag} (or a PATH) to know which run to continue")
        for path in (self.state, self.state_0_1):
            if path.is_file():
                return path
        raise BadInput(f"--resume: there is no training state {self.state}; start without --resume")

    def set_aside(self, tunes: bool) -> list[tuple[Path, Path]]:
        """Renames what an earlier run left, since a fresh one overwrites nothing: (old, new) names.
        States before models: killed in between, what is left has no state without its best model.

        tunes: the model in --save is what this run begins from; it stays, and keeps a second name,
        x.pt.main, for when it is overwritten. Raises BadInput.
        """
        moved = []
        for path in (*self._states_0_1(), self.state, files.previous(self.state), *self.also,
                     self.best):
            label, keep = ("main", True) if tunes and path == self.best else ("old", False)
            with bad_input(f"{self.flag}: "):
                if (new := files.set_aside(path, label, keep)) is not None:
                    moved.append((path, new))
        return moved

    def _states_0_1(self) -> list[Path]:
        """This run's states under their names in release 0.1, where x.a and x.b shared one."""
        found = [self.state_0_1, files.previous_0_1(self.state_0_1)]
        if self.folder:
            return found
        own = []
        for path in found:
            with contextlib.suppress(FileNotFoundError, ValueError):
                save = files.read(path).get("args", {}).get("save")
                own += [path] if Path(str(save)).name == self.best.name else []
        return own


def name_by_time() -> str:
    """The digits of the time and .pt, as the originals name a run that was given no name."""
    return f"{time.time()}".replace(".", "") + ".pt"
