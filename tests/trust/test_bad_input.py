"""Whatever the texts, the checkpoints and the flags are: the run works, or ends with one clear line
and exit code 2. Never a traceback, never a hang."""

import shutil

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.awd_lstm.small import write_corpus
from tests.sparse_seq.small import write_sentences
from tests.trellisnet.small import write_digits
from tests.trust.inputs import INPUTS, every
from tests.trust.scripts import SCRIPTS, write_listops

READERS = ["awd-main", "scratch-main", "word-ptb", "char-ptb", "sparse-main", "sparse-tagger"]
LONG = b"w1 w2 w3 w4 w5 "


def assert_orderly(done, what, codes=(0, 2)) -> None:
    """0, or 2 and one line (behind argparse's usage, if it is argparse's)."""
    assert "Traceback" not in done.err, f"{what}: {done.err}"
    assert done.code in codes, f"{what}: exit code {done.code}: {done.err}"
    if done.code:
        lines = done.complaints
        if lines and lines[0].startswith("usage:"):
            lines = lines[-1:]
        assert len(lines) == 1, f"{what}: {done.err}"
        assert 10 < len(lines[0]) < 600, f"{what}: {lines[0]}"


# ------------------------------------------------------------------------------------------ texts
# What it is -> the bytes, and the exit code where only one is right.
LINES = "w1 w2 w3\n" * 60
TEXTS = {
    "empty": (b"", 2), "one token": (b"word", None), "blank": (b" \t ", None),
    "newlines only": (b"\n\n\n\n", None), "no newline at the end": (b"w1 w2 w3 " * 60, 0),
    "CRLF": (LINES.replace("\n", "\r\n").encode(), 0),
    "byte order mark": (LINES.encode("utf-8-sig"), 0),
    "invalid UTF-8": (LINES.encode() + b"\xff\xfe\n", 2),
    "UTF-8 cut inside a character": (LINES.encode() + b"\xe2\x82", 2),
    "UTF-16": (LINES.encode("utf-16"), 2), "NUL": (b"w1 \0 w2\n" * 60, 0),
    "10 MB without newline": (LONG * (10_000_000 // len(LONG)), 0),
}


def tagged(text: bytes) -> bytes:
    """The same as tokens with their tags, where there are any."""
    return text.replace(b" ", b"\tT1\n")


def folder_with(place, script, part: str, text: bytes):
    """The script's data with one file replaced."""
    place.folders += 1
    data = place.home / f"texts-{place.folders}"
    shutil.copytree(place.data / script.data, data / script.data,
                    ignore=shutil.ignore_patterns(".*"))
    path, = data.rglob(f"{part}.*")
    path.write_bytes(tagged(text) if script.data == "tagged" else text)
    return data


def run_on(place, script, data):
    folder = place.folder(script)
    argv = script.argv(folder, data, "--max-steps", "1")
    done = place.server.run(script.module, argv, folder)
    shutil.rmtree(data)
    shutil.rmtree(folder)
    return done


@pytest.mark.parametrize("name", READERS)
def test_texts(place, name):
    script = SCRIPTS[name]
    rng = place.random("texts", name)
    for what, (text, code) in TEXTS.items():
        part = "train" if len(text) > 1e6 else rng.choice(("train", "valid", "test"))
        done = run_on(place, script, folder_with(place, script, part, text))
        assert_orderly(done, f"{what} as {part}")
        if code is not None and script.data != "tagged":
            assert done.code == code, f"{what} as {part}: {done.code} {done.err}"
        if done.code:
            assert "--data" in done.err or f"{part}.txt" in done.err, done.err
            if "UTF" in what:
                assert "UTF-8" in done.err
                assert part in done.err
        place.count("bad input", f"texts: exit {done.code}, no traceback")


PIECES = st.sampled_from([b"w1 ", b"w2\n", b"\r\n", b"\r", b"\0", b"\xff", b"\xef\xbb\xbf", b"\t",
                          b"\t\t", "\u2028".encode(), "\x85".encode(), "\u00ff".encode(), b"<eos>",
                          b"w\tT\n", b"\n\n", b"\xed\xa0\x80", b"\xc2\xa0", b"\x0b", b"\x1a"])
RANDOM_TEXTS = st.one_of(st.binary(max_size=400), st.lists(PIECES, max_size=200).map(b"".join),
                         st.text(st.characters(codec="utf-8"), max_size=200).map(str.encode))


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize("examples", [3, pytest.param(100, marks=[
    pytest.mark.slow, pytest.mark.timeout(3600)])])
def test_random_texts(place, name, examples):
    script = SCRIPTS[name]

    @settings(max_examples=examples, deadline=None, derandomize=True, database=None,
              suppress_health_check=list(HealthCheck))
    @given(text=RANDOM_TEXTS, part=st.sampled_from(("train", "valid", "test")))
    def check(text, part):
        done = run_on(place, script, folder_with(place, script, part, text))
        assert_orderly(done, f"{text!r} as {part}")
        place.count("bad input", f"random texts: exit {done.code}, no traceback")
    check()


# ------------------------------------------------------------------------------------ vocabularies
@pytest.mark.parametrize("words", ["more words", pytest.param("other words",
                                                              marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", INPUTS)
def test_checkpoints_of_other_data(place, name, words):
    """More words (or other pixels), or as many but others."""
    given_ = INPUTS[name]
    if words == "other words" and ("--load_weight" in name or "seq-images" in name):
        pytest.skip("an original's state_dict does not know its words, images have none")
    if "tnn-im" in name:
        pytest.skip("images have no words, and all sizes are resized to --input-size")
    if "generate" in name or ("sparse-finetune" in name and "--resume" not in name):
        pytest.skip("takes the words from the model")
    other = place.home / words.replace(" ", "-")
    if not other.is_dir():
        write_corpus(other / "texts", train=150, valid=25, test=25,
                     words=47 if words == "more words" else 30)
        write_digits(other / "images", side=5)
        write_sentences(other / "tagged")
        write_listops(other / "lra/listops")
        for path in (other / "lra").rglob("*.tsv"):
            path.write_text(path.read_text().replace("[MIN", "[SM" if words == "other words"
                                                     else "[MED [MIN"))
        for path in [*(other / "texts").glob("*.txt"), *(other / "tagged").glob("*.conll")]:
            text = path.read_text()
            path.write_text(text.replace("w1 ", "other ").replace("t1\t", "other\t")
                            if words == "other words"
                            else text.replace("w3 ", "qz ").replace("t4\t", "more\t"))
    folder = given_.prepare(place)
    good = (place.unbroken(SCRIPTS[given_.script]).folder / given_.good).read_bytes()
    own = place.data
    try:
        place.data = other
        done, _ = given_.give(place, folder, good)
    finally:
        place.data = own
    assert_orderly(done, name)
    assert done.code == 2, done.out[-800:]
    assert len(done.complaints) == 1
    place.count("bad input", "checkpoints of other data refused")


@pytest.mark.parametrize("given_", every(10))
def test_checkpoints_of_other_scripts(place, given_):
    """Every kind of file that any script writes, given to every flag that takes another kind."""
    folder = given_.prepare(place)
    kinds = {f"{other.script}/{other.good}": other for other in INPUTS.values()}
    for what, other in kinds.items():
        content = (place.unbroken(SCRIPTS[other.script]).folder / other.good).read_bytes()
        done, _ = given_.give(place, folder, content)
        assert "Traceback" not in done.err, f"{what} for {given_.name}: {done.err}"
        if what != f"{given_.script}/{given_.good}":
            assert done.code in (0, 2), f"{what} for {given_.name}: {done.err}"
        place.count("bad input", f"files of other scripts: exit {done.code}, no traceback")


@pytest.mark.parametrize("flags", ["--batch_size 100000", "--epochs 0", "--nosuch 1", "--lr",
                                   "--resume nowhere.pt", "--data nowhere", "--device tpu"])
def test_flags_that_cannot_be(place, script, flags):
    if flags == "--batch_size 100000" and script.name in ("seq-images", "sparse-tagger"):
        pytest.skip("one batch with all there is")
    if flags == "--data nowhere" and script.name == "sparse-finetune":
        pytest.skip("takes the words from --save")
    if flags == "--resume nowhere.pt" and script.name == "tnn-im":
        pytest.skip("starts afresh, as the original's, and says so")
    if script.name.startswith("tnn-"):
        flags = flags.replace("--batch_size", "--batch-size")
        if script.name == "tnn-im":
            flags = flags.replace("--data", "--data-path")
    folder = place.folder(script)
    done = place.run(script, folder, "--max-steps", "1", *flags.split(), code=2)
    assert_orderly(done, flags)
    name = flags.split()[0]
    assert name in done.line or "100000" in done.line or "nowhere" in done.line, done.line
