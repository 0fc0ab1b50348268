"""A catalogue and folders of our own, and getdata run on them within this process."""

import hashlib
import json

from getdata.cli import main
from getdata.settings import ROOT
from tests.getdata.server import BODY

REAL_MIRROR = ROOT.parent / "shared" / "data"


def facts(body):
    return {"bytes": len(body), "sha256": hashlib.sha256(body).hexdigest()}


def inline(table):
    return "{" + ", ".join(f"{key} = {json.dumps(value)}" for key, value in table.items()) + "}"


class Place:
    """A data folder, a catalogue, and a way to run getdata on them within this process."""

    def __init__(self, tmp_path, monkeypatch, capsys):
        self.data, self.links = tmp_path / "data", tmp_path / "repo"
        self.catalogue, self.capsys = tmp_path / "catalogue.toml", capsys
        self.setenv = monkeypatch.setenv
        self.env = {
            "DATA_DIR": str(self.data),
            "GETDATA_LINKS": str(self.links),
            "GETDATA_CATALOGUE": str(self.catalogue),
            "GETDATA_TIMEOUT": "30",  # a busy machine is not a slow server
            "NO_PROXY": "127.0.0.1",
        }
        for name, value in self.env.items():
            monkeypatch.setenv(name, value)
        monkeypatch.delenv("DATA_MIRROR", raising=False)

    def hurry(self, seconds=0.5):
        """Give servers up soon, in the tests whose server does not answer."""
        self.setenv("GETDATA_TIMEOUT", str(seconds))

    def describe(self, files, archives=(), extra=""):
        """Write a catalogue with one data set, toy."""
        lines = []
        for name, table in dict(archives).items():
            lines += [f'[archives."{name}"]', *(f"{k} = {json.dumps(table[k])}" for k in table)]
        lines += ["[sets.toy]", 'about = "a toy"', 'folder = "toy"', "default = true", extra]
        lines += ["files = [", *(f"  {inline(file)}," for file in files), "]"]
        lines += ["[sets.toy.links]", '"paper/data/toy" = ""']
        self.catalogue.write_text("\n".join(lines))

    def one_file(self, *urls, body=BODY, **more):
        self.describe([{"to": "a.bin", **facts(body), "from": urls, **more}])

    def run(self, *arguments):
        """Return (exit status, stdout, stderr)."""
        try:
            code = main([*arguments])
        except SystemExit as stop:
            code = stop.code
        out = self.capsys.readouterr()
        return code, out.out, out.err

    def left(self):
        """Return all files below the data folder, the records and the lock left out."""
        files = [path for path in self.data.rglob("*") if path.is_file()]
        return sorted(str(path.relative_to(self.data)) for path in files
                      if path.name not in (".complete", ".lock"))

    def complete(self, body=BODY):
        return self.left() == ["toy/a.bin"] and (self.data / "toy/a.bin").read_bytes() == body


def leave_part(place, body):
    (place.data / ".downloads").mkdir(parents=True)
    (place.data / ".downloads/toy-a.bin.part").write_bytes(body)
