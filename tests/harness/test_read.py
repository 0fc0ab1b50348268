"""Files are read without running their code, and damage is refused or does no harm."""

import argparse
import io
import random
import shutil
import tarfile
import zipfile
from pathlib import Path

import pytest
import torch

from harness import files
from tests.harness.same import same
from tests.trust.payloads import payloads, run_it

CONTENT = {"format": "x", "tensor": torch.arange(7.0), "plain": [1, 2.5, "three", None],
           "weight": torch.linspace(-1, 1, 30).reshape(5, 6), "steps": torch.tensor(3)}
RELEASE_0_1 = Path(__file__).resolve().parents[1] / "fixtures/release_0_1"
ORIGINALS = Path(__file__).resolve().parents[1] / "golden/cases/trellisnet/e2e"
FLIPS = 4000


def saved(content, **how) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer, **how)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def sealed(tmp_path_factory) -> list[Path]:
    """Every file that the scripts of release 0.1 left in the fixtures."""
    folder = tmp_path_factory.mktemp("sealed")
    for archive in RELEASE_0_1.glob("*/files.tar.xz"):
        with tarfile.open(archive) as tar:
            tar.extractall(folder / archive.parent.name, filter="data")
    found = [path for ending in ("*.pt", "*.pt.e2", "*.pth", "*.pkl")
             for path in sorted(folder.rglob(ending)) if path.name != "bare.pt"]
    assert len(found) > 30
    return found


def reads_as(path: Path, expected: dict) -> bool:
    """Does the file hold just that? False if it is refused, in one line that names it."""
    try:
        found = files.read(path)
    except ValueError as error:
        if path.name in str(error) and "\n" not in str(error):
            return False
        raise
    assert same(found, expected)
    return True


def assert_refused(path: Path, content: bytes | bytearray) -> None:
    path.write_bytes(content)
    with pytest.raises(ValueError, match=path.name) as caught:
        files.read(path)
    assert "\n" not in str(caught.value)


# ------------------------------------------------------------------------------------ damage
@pytest.mark.parametrize("ours", [True, False], ids=["ours", "an original's state_dict"])
def test_every_truncation_is_refused(tmp_path, ours):
    """All lengths of a small file."""
    content = saved({"n": [1, "two"], "w": torch.ones(1)} if ours else {"w": torch.randn(2)})
    for length in range(len(content)):
        assert_refused(tmp_path / "damaged.pt", content[:length])


@pytest.mark.parametrize("part", range(4))
def test_no_flipped_bit_changes_a_value(tmp_path, part):
    """Of a thousand each time; the file reads as it was written, or is refused."""
    rng, content, path = random.Random(part), saved(CONTENT), tmp_path / "damaged.pt"
    refused = 0
    for _ in range(FLIPS // 4):
        flipped, place = bytearray(content), rng.randrange(8 * len(content))
        flipped[place // 8] ^= 1 << place % 8
        path.write_bytes(flipped)
        refused += not reads_as(path, CONTENT)
    assert refused > FLIPS / 4 * 0.3  # the others are in the padding between its parts


def test_every_bit_that_says_where_a_tensor_is(tmp_path):
    """Of its entry in the archive's directory (the attributes of a folder are in there), of its
    header, of the directory's end and of the first bytes, which say what kind of file it is."""
    content, path = saved(CONTENT), tmp_path / "damaged.pt"
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        part, = (each for each in archive.infolist() if each.filename.endswith("data/1"))
    name = part.filename.encode()
    bytes_ = {*range(4), *range(len(content) - 22, len(content)),
              *range(part.header_offset, part.header_offset + 30 + len(name)),
              *range(content.rindex(name) - 46, content.rindex(name) + len(name))}
    for place in [8 * byte + bit for byte in sorted(bytes_) for bit in range(8)]:
        flipped = bytearray(content)
        flipped[place // 8] ^= 1 << place % 8
        path.write_bytes(flipped)
        reads_as(path, CONTENT)


@pytest.mark.parametrize("size", [1, 22, 64, 500, 4096])
def test_a_block_of_zeros_is_refused(tmp_path, size):
    """What a power cut leaves of a file that was not on the disk yet."""
    content, rng = saved(CONTENT), random.Random(size)
    data = content.index(CONTENT["weight"].numpy().tobytes())
    for start in [data, rng.randrange(len(content)), len(content) - size]:
        start = max(0, start)
        damaged = bytearray(content)
        damaged[start:start + size] = bytes(len(damaged[start:start + size]))
        path = tmp_path / "damaged.pt"
        path.write_bytes(damaged)
        reads_as(path, CONTENT)


@pytest.mark.parametrize("extra", [b"\0", b"PK\x05\x06" + bytes(18), b"0" * 64, bytes(70_000)],
                         ids=["zero", "end-record", "digits", "many"])
def test_what_was_added_does_no_harm(tmp_path, extra):
    path = tmp_path / "longer.pt"
    path.write_bytes(saved(CONTENT) + extra)
    reads_as(path, CONTENT)


@pytest.mark.parametrize("content", [b"", b"\0" * 100, b"PK\x03\x04", b"text\n" * 50, b"\x80\x02}.",
                                     b"PK\x05\x06" + bytes(18)])
def test_no_checkpoint_at_all(tmp_path, content):
    path = tmp_path / "none.pt"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"none\.pt"):
        files.read(path)


def test_missing_and_other_kinds(tmp_path):
    for path in (tmp_path / "x.pt", tmp_path):
        with pytest.raises(FileNotFoundError, match=f"there is no file {path}"):
            files.read(path)
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(ValueError, match=r"list\.pt holds a list"):
        files.read(tmp_path / "list.pt")


def test_a_small_memory_is_not_a_damaged_file(tmp_path, monkeypatch):
    files.write(tmp_path / "a.pt", CONTENT)

    def load(*_, **__):
        raise MemoryError
    monkeypatch.setattr(torch, "load", load)
    with pytest.raises(MemoryError):
        files.read(tmp_path / "a.pt")


# ---------------------------------------------------------------------------- files of others
def test_all_files_of_release_0_1_are_read(sealed):
    """Their checksum is a comment that nobody minds."""
    for path in sealed:
        assert same(files.read(path), torch.load(path, weights_only=True)), path


def test_a_bit_flipped_in_a_file_of_release_0_1(sealed, tmp_path):
    """The CRCs are in them as well."""
    rng, source = random.Random(1), next(path for path in sealed if path.name == "PTB.pt")
    content, expected = source.read_bytes(), files.read(source)
    for _ in range(300):
        flipped, place = bytearray(content), rng.randrange(8 * len(content))
        flipped[place // 8] ^= 1 << place % 8
        (tmp_path / "damaged.pt").write_bytes(flipped)
        reads_as(tmp_path / "damaged.pt", expected)


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_plain_files_of_torch_are_read(tmp_path, zipped):
    torch.save(CONTENT, tmp_path / "theirs.pt", _use_new_zipfile_serialization=zipped)
    assert same(files.read(tmp_path / "theirs.pt"), CONTENT)


@pytest.mark.parametrize("name", ["word_plain", "word_plain_cuda_zip", "word_plain_cuda_legacy"])
def test_the_originals_files_are_read(name):
    """Also those written on a GPU."""
    assert "encoder.weight" in files.read(ORIGINALS / f"{name}.pkl")


@pytest.fixture
def nothing_let_in():
    """Other tests of this process may have imported the fairseq plugin, which lets classes in."""
    before = torch.serialization.get_safe_globals()
    torch.serialization.clear_safe_globals()
    yield
    torch.serialization.clear_safe_globals()
    torch.serialization.add_safe_globals(before)


def test_classes_that_were_let_in_for_good_stay_so(tmp_path, nothing_let_in):
    torch.save({"args": argparse.Namespace(lr=1.0)}, tmp_path / "a.pth")
    torch.serialization.add_safe_globals([argparse.Namespace])
    files.read(tmp_path / "a.pth", safe=(argparse.Namespace,))
    files.read(tmp_path / "a.pth")


def test_classes_are_let_in_by_name_alone(tmp_path, nothing_let_in):
    """argparse.Namespace is in the originals' checkpoints of images."""
    content = {"args": argparse.Namespace(lr=1.0), "model": {}}
    torch.save(content, tmp_path / "a.pth")
    with pytest.raises(ValueError, match=r"a\.pth is refused"):
        files.read(tmp_path / "a.pth")
    assert files.read(tmp_path / "a.pth", safe=(argparse.Namespace,)) == content
    with pytest.raises(ValueError, match=r"a\.pth is refused"):
        files.read(tmp_path / "a.pth")  # let in for one call


# ------------------------------------------------------------------------------ hostile files
@pytest.mark.parametrize("name", payloads(Path("x")))
def test_code_in_a_file_is_not_run(tmp_path, name):
    """And it would have been: the payloads are live."""
    canary, path = tmp_path / "canary", tmp_path / "hostile.pt"
    content = payloads(canary)[name]
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"hostile\.pt") as caught:
        files.read(path)
    assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match=r"hostile\.pt"):
        files.read(path, safe=(argparse.Namespace,))
    assert not canary.exists()
    run_it(content, path)
    assert canary.exists()


def test_a_whole_model_is_refused_with_the_way_out(tmp_path):
    old, new = tmp_path / "old.pt", tmp_path / "new.pt"
    model = torch.nn.Linear(2, 2)
    torch.save([model, None], old)
    with pytest.raises(ValueError, match=r"old\.pt .*torch\.save\(model\.state_dict\(\), NEW\)"):
        files.read(old)
    torch.save(torch.load(old, weights_only=False)[0].state_dict(), new)  # as it says
    assert same(files.read(new)["weight"], model.weight.data)


# ------------------------------------------------------------------------------ the one before
def states(folder: Path) -> Path:
    for n in range(3):
        files.write(folder / "m.pt.state", {"n": n}, keep_previous=True)
    return folder / "m.pt.state"


def test_a_damaged_state_falls_back_and_says_so(tmp_path, capsys):
    path = states(tmp_path)
    assert files.read_or_previous(path) == {"n": 2}
    assert capsys.readouterr().err == ""
    path.write_bytes(path.read_bytes()[:-9])
    assert files.read_or_previous(path) == {"n": 1}
    line, = capsys.readouterr().err.splitlines()
    assert f"{path} is damaged" in line
    assert line.endswith(f"going on from the state before it, {path}.prev")


def test_both_damaged(tmp_path):
    path = states(tmp_path)
    for each in (path, files.previous(path)):
        each.write_bytes(b"")
    with pytest.raises(ValueError, match=r"m\.pt\.state\.prev is damaged"):
        files.read_or_previous(path)


def test_without_one_before_it_the_damaged_one_is_named(tmp_path):
    path = states(tmp_path)
    files.previous(path).unlink()
    path.write_bytes(b"text")
    with pytest.raises(ValueError, match=r"m\.pt\.state is "):
        files.read_or_previous(path)
    with pytest.raises(FileNotFoundError):
        files.read_or_previous(tmp_path / "other.pt")


def test_the_name_that_release_0_1_gave_it(sealed, tmp_path, capsys):
    before = next(path for path in sealed if path.name == "PTB.state.prev.pt")
    shutil.copytree(before.parent, tmp_path / "run")
    (tmp_path / "run/PTB.state.pt").write_bytes(b"damaged")
    found = files.read_or_previous(tmp_path / "run/PTB.state.pt")
    assert same(found, files.read(before))
    assert "PTB.state.prev.pt" in capsys.readouterr().err


def test_the_archive_is_checked_whoever_wrote_it(tmp_path):
    """A CRC that does not match, in an original's file: 0.18 must not become 6.3e37 in silence."""
    content = bytearray(saved({"w": torch.full((3,), 0.18)}))
    place = bytes(content).index(torch.full((3,), 0.18).numpy().tobytes())
    content[place + 3] ^= 0x40
    path = tmp_path / "theirs.pt"
    path.write_bytes(content)
    assert torch.load(path, weights_only=True)["w"][0] > 1e30
    with pytest.raises(ValueError, match=r"theirs\.pt is damaged"):
        files.read(path)
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is not None
