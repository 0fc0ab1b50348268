"""Every flag that takes a file, with a good example of such a file."""

import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.trust.forked import Ended
from tests.trust.runs import Place
from tests.trust.scripts import SCRIPTS

USE_AWD = "--data {data}/texts --no-cuda"


@dataclass(frozen=True)
class Input:
    """`flags` are added to those of the script's tiny run, or, with `module`, are all there are.
    {file} is the file given; with `place` the script looks for it under that name in its folder.
    """

    name: str
    script: str                # whose finished run has a good example
    good: str                  # that example, below the run's folder
    flags: str
    place: str = ""
    module: str = ""

    @property
    def is_state(self) -> bool:
        return "state" in self.good

    def prepare(self, place: Place) -> Path:
        """A new folder with all that the script looks for beside the file."""
        place.folders += 1
        folder = place.home / f"input-{place.folders}"
        folder.mkdir()
        if self.place:
            found = place.unbroken(SCRIPTS[self.script]).folder
            shutil.copytree(found, folder, dirs_exist_ok=True,
                            ignore=shutil.ignore_patterns("logs", "journal", "*.prev"))
        return folder

    def give(self, place: Place, folder: Path, content: bytes) -> tuple[Ended, Path]:
        """Runs the script on a file of that content. Returns how it ended and the file's path."""
        path = folder / (self.place or f"given{Path(self.good).suffix}")
        path.write_bytes(content)
        script = SCRIPTS[self.script]
        flags = self.flags.format(file=path, folder=folder, data=place.data).split()
        if self.module:
            return place.server.run(self.module, flags, folder), path
        argv = script.argv(folder, place.data, *flags)
        return place.server.run(script.module, argv, folder), path


def of(name: str, flag: str, good: str, **more) -> Input:
    return Input(f"{name} {flag}", name, good, f"{flag} {{file}}", **more)


STATES = [of(script.name, "--resume", script.state) for script in SCRIPTS.values()]
TRELLIS = ("word-ptb", "word-wt103", "char-ptb", "seq-images")
INPUTS = {given.name: given for given in (
    *STATES,
    Input("awd-main --resume MODEL", "awd-main", "m.pt", "--resume {file}"),
    Input("awd-finetune --save", "awd-main", "m.pt", f"{USE_AWD} --save {{file}}",
          module="awd_lstm.finetune"),
    Input("awd-pointer --save", "awd-main", "m.pt", f"{USE_AWD} --save {{file}} --window 20",
          module="awd_lstm.pointer"),
    Input("awd-generate --checkpoint", "awd-main", "m.pt",
          f"{USE_AWD} --checkpoint {{file}} --words 5 --outf {{folder}}/text",
          module="awd_lstm.generate"),
    Input("scratch-main --resume MODEL", "scratch-main", "m.pt", "--resume {file}"),
    Input("scratch-main --finetune", "scratch-main", "m.pt",
          f"{USE_AWD} --finetune --save {{file}}", module="awd_lstm.scratch.main"),
    Input("scratch-main --pointer", "scratch-main", "m.pt",
          f"{USE_AWD} --pointer --save {{file}}", module="awd_lstm.scratch.main"),
    *(of(name, "--load", "m.pt") for name in TRELLIS),
    *(of(name, "--load_weight", "weights/m.pt.pkl") for name in TRELLIS[:3]),
    Input("trellisnet-generate --load", "word-ptb", "m.pt",
          "--load {file} --data {data}/texts --words 5 --device cpu", module="trellisnet.generate"),
    *(Input(f"{name} --continue_train {file}", name, f"run/{file}", "--continue_train",
            place=f"run/{file}")
      for name in ("sparse-main", "sparse-recite") for file in ("model.pt", "optimizer.pt")),
    *(Input(f"sparse-finetune {flags} {file}", "sparse-finetune", f"run/{file}", flags,
            place=f"run/{file}")
      for flags, file in (("", "model.pt"), ("", "corpus.pt"),
                          ("--continue_train", "finetune_model.pt"),
                          ("--continue_train", "finetune_optimizer.pt"))),
    Input("sparse-main --resume MODEL", "sparse-main", "run/model.pt", "--resume {file}"),
)}


def every(n: int) -> list:
    """All of them as pytest's parameters; all but every n-th are for the full suite."""
    return [pytest.param(given, id=given.name, marks=[pytest.mark.slow] if i % n else [])
            for i, given in enumerate(INPUTS.values())]
