"""A downloaded archive that is cut or has a bit flipped: what is in the data folder afterwards is
right to the byte, or nothing is; the archive is named in one line."""

import hashlib
import io
import json
import os
import tarfile
import zipfile

import pytest

from getdata.cli import main
from tests.trust.test_damage import flips, truncations

FILES = {"train.txt": b"w1 w2 w3\n" * 400, "valid.txt": b"w4 w5\n" * 100}


def zipped() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in FILES.items():
            archive.writestr(f"set/{name}", content)
    return buffer.getvalue()


def tarred() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, content in FILES.items():
            info = tarfile.TarInfo(f"set/{name}")
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def catalogue(archive: str, content: bytes, members_known: bool) -> str:
    """One data set; checksums of the archive alone, or of the files in it."""
    lines = [f'[archives."{archive}"]', "urls = []", f"bytes = {len(content)}",
             f'sha256 = "{hashlib.sha256(content).hexdigest()}"', "[sets.toy]", 'about = "a toy"',
             'folder = "toy"', "files = ["]
    for name, text in FILES.items():
        facts = {"to": name, "from": [f"{archive}!set/{name}"]}
        if members_known:
            facts |= {"bytes": len(text), "sha256": hashlib.sha256(text).hexdigest()}
        lines.append("  {" + ", ".join(f"{k} = {json.dumps(v)}" for k, v in facts.items()) + "},")
    return "\n".join([*lines, "]"])


@pytest.mark.parametrize("members_known", [True, False], ids=["files known", "archive known"])
@pytest.mark.parametrize("kind", ["zip", "tgz"])
@pytest.mark.parametrize("count", [8, pytest.param(256, marks=pytest.mark.slow)])
def test_damaged_archives(place, tmp_path, monkeypatch, capsys, kind, members_known, count):
    rng = place.random("archives", kind, members_known, count)
    good, name = (zipped() if kind == "zip" else tarred()), f"toy.{kind}"
    mirror, data = tmp_path / "mirror", tmp_path / "data"
    mirror.mkdir()
    (tmp_path / "catalogue.toml").write_text(catalogue(name, good, members_known))
    for variable, value in (("DATA_DIR", data), ("DATA_MIRROR", mirror),
                            ("GETDATA_CATALOGUE", tmp_path / "catalogue.toml")):
        monkeypatch.setenv(variable, str(value))
    for damage, times in ((truncations, count // 4), (flips, count)):
        for content in damage(rng, good, times):
            (mirror / name).write_bytes(content)
            code = main(["toy"])
            said = capsys.readouterr().err
            left = {p.name: p.read_bytes() for p in data.rglob("*.txt")}
            if code == 0:   # the damage is in a date, a mode: the files are as they should be
                assert members_known
                assert left == FILES
            else:
                assert code == 1
                assert name in said
                assert not left
            for path in sorted(data.rglob("*"), reverse=True):
                os.rmdir(path) if path.is_dir() else path.unlink()
            outcome = "refused by name" if code else "damage outside the files, files whole"
            place.count("damage", f"archives: {outcome}")
    (mirror / name).write_bytes(good)
    assert main(["toy"]) == 0
