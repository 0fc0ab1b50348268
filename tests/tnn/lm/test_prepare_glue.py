"""GLUE's files to fairseq's form, by what can be wrong with them."""

import zipfile

import pytest

pytest.importorskip("fairseq", reason="fairseq is not installed, see README: Installing")

from fairseq import options
from fairseq_cli import preprocess

from tests.tnn.lm.conftest import ROOT
from tnn.lm import prepare_glue
from tnn.lm.predict_glue import questions
from tnn.lm.prepare_glue import Table, rows

CASES = ROOT / "../shared/cases/glue"
HEAD = "index\tsentence1\tsentence2\tlabel"


def task(folder, name, **splits):
    """TASK/SPLIT.tsv with these lines, and a dictionary of all their words."""
    (folder / name).mkdir(parents=True, exist_ok=True)
    for split, lines in splits.items():
        (folder / name / f"{split}.tsv").write_bytes("".join(f"{x}\n" for x in lines).encode())
    words = sorted({w for lines in splits.values() for line in lines for w in line.split()})
    (folder / "dict.txt").write_text("".join(f"{word} 1\n" for word in words))


@pytest.fixture
def prepare(tmp_path, capsys):
    """Prepares TASK in this process; what it printed."""
    def run(name, glue=tmp_path):
        prepare_glue.main([name, "--glue", str(glue), "--bpe", str(tmp_path), "--out",
                           str(tmp_path / "out")])
        return capsys.readouterr().out
    return run


@pytest.fixture
def refused(tmp_path, complaint):
    """The one line, without the script's name; nothing is left behind."""
    def run(name):
        before = sorted(tmp_path.rglob("*"))
        line = complaint(prepare_glue.main, [name, "--glue", tmp_path, "--bpe", tmp_path, "--out",
                                             tmp_path / "out"])
        assert sorted(tmp_path.rglob("*")) == before
        return line.removeprefix("prepare_glue.py: ")
    return run


# ------------------------------------------------------------------------------------ columns
def test_columns_by_name():
    found = rows(Table("x", [HEAD, "0\ta b\tc\tentailment", "1\td\te\tnot_entailment",
                             "2\tone short"]), "RTE")
    assert found == prepare_glue.Rows([["a b", "d"], ["c", "e"]], ["entailment", "not_entailment"],
                                      [2, 3], 1)


def test_cola_has_no_header_and_sts_is_scaled():
    assert rows(Table("x", ["gj04\t1\t\tHe left ."]), "CoLA").inputs == [["He left ."]]
    found = rows(Table("x", ["sentence1\tsentence2\tscore", "a\tb\t3.8"]), "STS-B")
    assert (found.inputs, found.labels) == ([["a"], ["b"]], ["0.76"])


def test_a_damaged_first_row_of_a_file_without_header_loses_no_other():
    lines = ["gj04\t1\t\tHe left .\tx", "gj04\t1\t\tHe left ."]
    assert rows(Table("x", lines), "CoLA") == prepare_glue.Rows([["He left ."]], ["1"], [2], 1)


def test_a_blank_line_is_no_row_of_a_test_set():
    found = questions(Table("x", ["index\tsentence", "0\ta", "", " \t", "1\tb", "2"]), "CoLA")
    assert (found.indices, found.inputs, found.incomplete) == (["0", "1", "2"],
                                                               [["a", "b", ""]], 1)


@pytest.mark.parametrize(("name", "lines", "said"), [
    ("RTE", ["index\tlabel", "0\t1"], "dev.tsv: no column 'sentence1' among"),
    ("RTE", [HEAD], "dev.tsv: no row with 4 columns and a label"),
    ("RTE", [HEAD, "0\ta\tb\tentailment", "1\ta\tb\tmaybe"],
     "dev.tsv, line 3: the label 'maybe' is none of entailment, not_entailment"),
    ("RTE", [HEAD, "0\ta\tb\tnot_entailment"],
     "dev.tsv, line 2: no row of the training data has the label 'not_entailment'"),
    ("RTE", [HEAD, "0\ta\tb\t"], "dev.tsv, line 2: the label '' is none of"),
    ("CoLA", ["x"], "dev.tsv: no row with 4 columns and a label"),
    ("CoLA", ["x\t2\t\ta"], "dev.tsv, line 1: the label '2' is none of 0, 1"),
    ("STS-B", ["sentence1\tsentence2\tscore", "a\tb\tx"],
     "dev.tsv, line 2: the score 'x' is no number from 0 to 5"),
    ("STS-B", ["sentence1\tsentence2\tscore", "a\tb\tnan"], "dev.tsv, line 2: the score 'nan'"),
    ("STS-B", ["sentence1\tsentence2\tscore", "a\tb\t5.1"], "dev.tsv, line 2: the score '5.1'"),
], ids=lambda value: value if isinstance(value, str) and "\t" not in value else "")
def test_a_dev_label_unknown_to_the_task_or_to_training_is_refused(refused, tmp_path, name, lines,
                                                                   said):
    train = {"RTE": [HEAD, "0\ta\tb\tentailment"], "CoLA": ["x\t1\t\ta"],
             "STS-B": ["sentence1\tsentence2\tscore", "a\tb\t5"]}[name]
    task(tmp_path, name, train=train, dev=lines)
    assert refused(name).startswith(f"{tmp_path}/{name}/{said}")


def test_rows_without_a_gold_label_are_left_out_and_counted(prepare, tmp_path):
    lines = [HEAD, "0\ta\tb\tentailment", "1\ta\tb\tnot_entailment", "2\ta\tb\t-"]
    task(tmp_path, "RTE", train=lines, dev=lines)
    assert prepare("RTE").splitlines() == [
        "RTE train: 2 rows, 1 left out", "RTE dev: 2 rows, 1 left out",
        f"prepared: {tmp_path}/out/RTE-bin"]


# ---------------------------------------------------------------------------------- the files
@pytest.mark.parametrize("where", ["folder", "zip"])
@pytest.mark.parametrize("end", ["\n", "\r\n"], ids=["LF", "CRLF"])
def test_a_lone_carriage_return_is_part_of_a_sentence(tmp_path, where, end):
    """And a byte order mark is none."""
    content = "\ufeff" + end.join([HEAD, "0\ta\rb\u2028c\x85d\te\tentailment", ""])
    if where == "zip":
        with zipfile.ZipFile(tmp_path / "RTE.zip", "w") as z:
            z.writestr("RTE/dev.tsv", content)
    else:
        (tmp_path / "RTE").mkdir()
        (tmp_path / "RTE/dev.tsv").write_bytes(content.encode())
    found = rows(prepare_glue.read(tmp_path, "RTE", "dev"), "RTE")
    assert (found.inputs, found.dropped) == ([["a\rb\u2028c\x85d"], ["e"]], 0)


def test_zip_of_a_task(tmp_path):
    with zipfile.ZipFile(tmp_path / "QNLIv2.zip", "w") as z:
        z.writestr("QNLI/dev.tsv", "index\tquestion\tsentence\tlabel\n")
    assert prepare_glue.read(tmp_path, "QNLI", "dev").lines[0].startswith("index")
    with pytest.raises(prepare_glue.BadInput, match=r"\./getdata\.sh glue"):
        prepare_glue.read(tmp_path, "QNLI", "train")


def test_a_damaged_zip_is_named(refused, tmp_path):
    with zipfile.ZipFile(tmp_path / "RTE.zip", "w") as z:
        z.writestr("RTE/train.tsv", HEAD)
    content = bytearray((tmp_path / "RTE.zip").read_bytes())
    (tmp_path / "dict.txt").touch()
    encrypted = bytearray(content)  # says so in its two headers
    for header in (encrypted.index(b"PK\3\4") + 6, encrypted.index(b"PK\1\2") + 8):
        encrypted[header] |= 1
    for damaged in (content.replace(b"sentence1", b"sentence3"), content[:60], encrypted):
        (tmp_path / "RTE.zip").write_bytes(damaged)
        assert refused("RTE").startswith(f"{tmp_path}/RTE.zip is damaged")


def test_a_file_that_is_not_utf8_is_named(refused, tmp_path):
    task(tmp_path, "RTE", train=[HEAD])
    (tmp_path / "RTE/train.tsv").write_bytes(HEAD.encode() + b"\n0\tcaf\xe9\tb\tentailment\n")
    assert refused("RTE").startswith(f"{tmp_path}/RTE/train.tsv, byte 37: not UTF-8")


def test_no_dictionary_in_one_line(refused, tmp_path):
    assert refused("RTE") == (f"no dictionary {tmp_path}/dict.txt: the one that the model was "
                              "trained with")


# --------------------------------------------------------------------------------- the result
def test_the_result_is_fairseqs(prepare, tmp_path):
    """By fairseq-preprocess: the same bytes. MNLI has two validation sets."""
    head = "sentence1\tsentence2\tgold_label"
    labels = ["entailment", "neutral", "contradiction", "neutral"]
    lines = [f"a b {i}\tb {i}\t{label}" for i, label in enumerate(labels)]
    task(tmp_path, "MNLI", train=[head, *lines * 3], dev_matched=[head, *lines],
         dev_mismatched=[head, *lines[::-1]])
    prepare("MNLI")
    ours, text = tmp_path / "out/MNLI-bin", tmp_path / "text"
    text.mkdir()
    for name, order in (("train", lines * 3), ("valid", lines), ("valid1", lines[::-1])):
        for k, part in enumerate(("input0", "input1", "label")):
            (text / f"{name}.{part}").write_text(
                "".join(f"{line.split(chr(9))[k]}\n" for line in order))
    for part in ("input0", "input1", "label"):
        flags = [] if part == "label" else ["--srcdict", str(tmp_path / "dict.txt")]
        preprocess.main(options.get_preprocessing_parser().parse_args(
            ["--only-source", "--trainpref", f"{text}/train.{part}", "--validpref",
             f"{text}/valid.{part},{text}/valid1.{part}", "--destdir", str(tmp_path / part),
             "--workers", "1", *flags]))
        names = {p.name for p in (ours / part).iterdir()}
        assert names == {"dict.txt", *(f"{split}.{end}" for split in ("train", "valid", "valid1")
                                       for end in ("bin", "idx"))}
        for name in names:
            assert (ours / part / name).read_bytes() == (tmp_path / part / name).read_bytes()


def test_stsb_binarised(prepare, tmp_path):
    """Two inputs and numbers as labels; nothing but complete folders."""
    lines = ["sentence1\tsentence2\tscore", "a b\tc\t5.0", "b\ta\t0.0"]
    task(tmp_path, "STS-B", train=lines, dev=lines)
    prepare("STS-B")
    out = tmp_path / "out/STS-B-bin"
    assert (out / "label/train.label").read_text() == "1\n0\n"
    assert {p.name for p in out.iterdir()} == {"input0", "input1", "label"}
    assert (out / "input1/valid.idx").is_file()


def test_an_earlier_result_keeps_another_name(prepare, tmp_path):
    lines = ["sentence1\tsentence2\tscore", "a b\tc\t5.0"]
    task(tmp_path, "STS-B", train=lines, dev=lines)
    prepare("STS-B")
    (tmp_path / "out/STS-B-bin/mine").write_text("x")
    assert "kept as" in prepare("STS-B")
    assert (tmp_path / "out/STS-B-bin.old/mine").read_text() == "x"
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["STS-B-bin", "STS-B-bin.old"]


@pytest.mark.skipif(not CASES.is_dir(), reason="the recorded cases are not at hand")
@pytest.mark.parametrize(("name", "said"), [
    ("RTE", "RTE dev: 32 rows, 2 left out"), ("CoLA", "CoLA dev: 40 rows, 0 left out"),
    ("STS-B", "STS-B dev: 40 rows, 0 left out")])
def test_recorded_cases(prepare, tmp_path, name, said):
    (tmp_path / "dict.txt").write_text("a 1\n")
    assert said in prepare(name, CASES)
