"""Damaged files are refused by name in one line, or replaced by the state before them; never partly
loaded. Damaged caches of texts are made anew."""

import argparse
import shutil
from pathlib import Path

import pytest

from harness import files
from tests.harness.same import same
from tests.trust.inputs import every
from tests.trust.runs import assert_same_run
from tests.trust.scripts import SCRIPTS


def truncations(rng, content: bytes, count: int) -> list[bytes]:
    return [content[:rng.randrange(len(content))] for _ in range(count)]


def flips(rng, content: bytes, count: int) -> list[bytes]:
    """Copies with one bit changed each."""
    found = []
    for _ in range(count):
        damaged, bit = bytearray(content), rng.randrange(8 * len(content))
        damaged[bit // 8] ^= 1 << bit % 8
        found.append(bytes(damaged))
    return found


def noticed(rng, content: bytes, count: int, path: Path) -> list[bytes]:
    """As flips, but for those between the parts of the archive: there a file reads as before."""
    path.write_bytes(content)
    safe, found = (argparse.Namespace,), []
    good = files.read(path, safe)
    while len(found) < count:
        damaged, = flips(rng, content, 1)
        path.write_bytes(damaged)
        try:
            assert same(files.read(path, safe), good)
        except ValueError:
            found.append(damaged)
    return found


def assert_refused(done, path, before) -> None:
    """Exit code 2, one line that names the file, nothing touched."""
    assert done.code == 2, (done.code, done.out, done.err)
    assert "Traceback" not in done.err
    assert str(path) in done.line, done.err
    assert "damaged" in done.line or "refused" in done.line, done.line
    assert len(done.complaints) == 1, done.err
    assert listing(path.parent, path) == before


def listing(folder, but) -> dict:
    return {p: p.stat().st_mtime_ns for p in folder.rglob("*") if p.is_file() and p != but
            and "logs" not in p.parts and not p.name.startswith(".")}


@pytest.mark.parametrize("given", every(3))
@pytest.mark.parametrize(("cut", "flipped"), [(1, 2), pytest.param(64, 256, marks=[
    pytest.mark.slow, pytest.mark.timeout(3600)])], ids=["some", "all"])
def test_checkpoints(place, given, cut, flipped):
    rng = place.random("damage", given.name, cut)
    good = (place.unbroken(SCRIPTS[given.script]).folder / given.good).read_bytes()
    folder = given.prepare(place)
    before = listing(folder, folder / given.place)
    cases = [(truncations(rng, good, cut), "truncations"),
             (noticed(rng, good, flipped, place.home / "flipped"), "bit flips")]
    for damaged, kind in cases:
        for content in damaged:
            done, path = given.give(place, folder, content)
            assert_refused(done, path, before)
        place.count("damage", f"{kind} of checkpoints refused", len(damaged))


def test_the_state_before_it_is_used(place, script):
    """The run ends as if nothing had been damaged."""
    rng, expected = place.random("previous", script.name), place.unbroken(script)
    folder = place.folder(script)
    place.run(script, folder, "--max-steps", rng.randrange(6, expected.updates))
    state = folder / script.state
    good = state.read_bytes()
    damaged, = rng.choice((truncations(rng, good, 1), noticed(rng, good, 1, state)))
    state.write_bytes(damaged)
    done = place.run(script, folder, "--resume")
    assert str(state) in done.err
    assert ".prev" in done.err
    assert_same_run(script, folder, done, expected)
    place.count("damage", "damaged states replaced by the one before, run bit for bit")


@pytest.mark.parametrize("name", ["awd-main", "word-ptb", "sparse-main", *(
    pytest.param(name, marks=pytest.mark.slow)
    for name in ("scratch-main", "word-wt103", "char-ptb", "sparse-tagger"))])
def test_the_best_model_is_damaged_at_the_closing_test(place, name):
    """Or gone: one line, not a traceback."""
    script = SCRIPTS[name]
    rng = place.random("closing", name)
    for damage in (truncations, None):
        folder = place.folder(script)
        place.run(script, folder)
        best = folder / f"{script.models[0]}{script.read(folder / script.state)['best']}"
        if damage:
            best.write_bytes(damage(rng, best.read_bytes(), 1)[0])
        else:
            best.unlink()
        done = place.run(script, folder, "--resume", code=2)
        assert best.name in done.line, done.err


# ---------------------------------------------------------------------------------------- caches
CACHES = {"awd-main": ".corpus-cache/*/*.*", "word-ptb": ".trellisnet-words-*.npz",
          "char-ptb": ".trellisnet-characters-*.npz"}


@pytest.mark.parametrize("name", CACHES)
@pytest.mark.parametrize(("cut", "flipped"), [(1, 3), pytest.param(64, 256, marks=[
    pytest.mark.slow, pytest.mark.timeout(3600)])], ids=["some", "all"])
def test_caches_of_texts(place, name, cut, flipped):
    """Tokenised again, with a word about it (but for bits that mean nothing), and the run is the
    same."""
    script = SCRIPTS[name]
    rng, data = place.random("cache", name, cut), place.home / f"data-{name}-{cut}"
    place.unbroken(script)
    shutil.copytree(place.data, data)
    caches = sorted((data / "texts").glob(CACHES[name]))
    good = {cache: cache.read_bytes() for cache in caches}
    folder = place.folder(script)
    argv = script.argv(folder, data, "--max-steps", "1")
    expected = place.server.run(script.module, argv, folder)
    for damage, count in ((truncations, cut), (flips, flipped), (headers, flipped)):
        for _ in range(count):
            cache = rng.choice(caches)
            content = damage(rng, good[cache], 1)[0]
            cache.write_bytes(content)
            folder = place.folder(script)
            done = place.server.run(script.module, script.argv(folder, data, "--max-steps", "1"),
                                    folder)
            assert done.code == 0, done.err
            assert "damaged cache" in done.err or damage is not truncations
            assert closing(done) == closing(expected)
            shutil.rmtree(folder)
            assert {p: p.read_bytes() for p in caches if p.is_file()}.keys() == good.keys()
            if cache.suffix == ".npz":
                cache.write_bytes(good[cache])
        place.count("damage", "damaged caches made anew", count)


def headers(rng, content: bytes, count: int) -> list[bytes]:
    """Copies with one bit changed in a description of an array: its shape, its type."""
    starts = [i for i in range(len(content)) if content[i:i + 6] == b"\x93NUMPY"] or [0]
    found = []
    for _ in range(count):
        damaged, at = bytearray(content), rng.choice(starts) + rng.randrange(80)
        damaged[min(at, len(content) - 1)] ^= 1 << rng.randrange(8)
        found.append(bytes(damaged))
    return found


def closing(done) -> str:
    return done.out.strip().splitlines()[-2]
