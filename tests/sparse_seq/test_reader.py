"""Tagged sentences as people's files have them: read where clear, else refused by file and line."""

import pytest

from sparse_seq.sequence_labeling.reader import lines_of, read_sentences

TWO = [[("the", "DT"), ("dog", "NN")], [("a", "DT"), ("cat", "NN")]]


def read(tmp_path, text: str, encoding: str = "utf-8"):
    path = tmp_path / "x.conll"
    path.write_bytes(text.encode(encoding))
    return read_sentences(path)


@pytest.mark.parametrize("text", [
    "the\tDT\ndog\tNN\n\na\tDT\ncat\tNN\n\n",
    "the\tDT\ndog\tNN\n\n\n\na\tDT\ncat\tNN",           # empty sentences, no last empty line
    "the\tDT\tmore\ndog\tNN\tmore\n\na\tDT\ncat\tNN\n",  # further columns
    "the\tDT\ndog\tNN\n\t\na\tDT\ncat\tNN\n",            # blank lines of white space ...
    "the\tDT\ndog\tNN\n  \t \na\tDT\ncat\tNN\n \n",
    "the\tDT\ndog\tNN\n\u00a0\na\tDT\ncat\tNN\n",        # ... of any kind
    "\ufeffthe\tDT\ndog\tNN\n\na\tDT\ncat\tNN\n",        # a byte order mark
    "the\tDT\ndog\tNN\n\n\ufeffa\tDT\ncat\tNN\n",        # where two files were joined
    "the\tDT\r\ndog\tNN\r\n\r\na\tDT\r\ncat\tNN\r\n",
    "the DT\ndog NN\n\na DT\ncat NN\n",                  # blanks for tabs
    "the   DT B-NP\ndog NN I-NP \n\na DT B-NP\ncat NN I-NP\n",
    "the\tDT\u00a0\ndog\tNN\n\na\tDT\ncat\tNN\n",         # no tag of its own
    "-DOCSTART- -X- -X- O\n\nthe DT B-NP O\ndog NN I-NP O\n\na DT B-NP O\ncat NN I-NP O\n",
    "-DOCSTART- -X- O\nthe DT B O O\ndog NN B O O\n-DOCSTART- -X- O\na DT B O O\ncat NN B O O\n",
    "-DOCSTART-\n\nthe\tDT\ndog\tNN\n-DOCSTART-\tO\na\tDT\ncat\tNN\n",
    "the \tDT\ndog\t NN \n\na\tDT\ncat\tNN\n"], ids=repr)
def test_read(tmp_path, text):
    assert read(tmp_path, text) == TWO


CONLLU = """# sent_id = 1
1-2\tdunno\t_\t_\t_\t_\t_\t_\t_\t_
1\tthe\tthe\tDET\tDT\t_\t0\troot\t_\t_
2\tdog\tdog\tNOUN\tNN\t_\t0\troot\t_\t_
2.1\tempty\t_\tVERB\t_\t_\t_\t_\t_\t_

# text = # 3
1\t#\t#\tSYM\t#\t_\t0\troot\t_\t_
2\tNew York\tNew York\tPROPN\tNNP\t_\t0\troot\t_\t_
"""


def test_conllu(tmp_path):
    """FORM and UPOS; comments, ranges and empty nodes are no words."""
    assert read(tmp_path, CONLLU) == [[("the", "DET"), ("dog", "NOUN")],
                                      [("#", "SYM"), ("New York", "PROPN")]]
    assert read(tmp_path, CONLLU.split("\n", 1)[1]) == read(tmp_path, CONLLU)  # begins with a range


def test_a_token_keeps_what_is_in_it(tmp_path):
    """A number sign, a non-breaking space, a line separator, a blank before a tab."""
    text = "#\t#\n10\u00a0000\tCD\nx\u2028y\tNN\nNew York\tNNP\n"
    assert read(tmp_path, text) == [[("#", "#"), ("10\u00a0000", "CD"), ("x\u2028y", "NN"),
                                     ("New York", "NNP")]]
    assert read(tmp_path, "10\u00a0000 CD\n# #\n") == [[("10\u00a0000", "CD"), ("#", "#")]]


@pytest.mark.parametrize(("text", "message"), [
    ("the\tDT\ndog\n\n", "line 2: no tab between token and tag"),
    ("the\tDT\ndog NN\n\n", "line 2: no tab"),
    ("the\tDT\n\ndog\t\n", "line 3: the tag is missing"),
    ("the\tDT\n\tNN\n", "line 2: the token is missing"),
    ("the DT\ndog\n", "line 2: a token without a tag"),
    ("the DT\ndog\u00a0NN\n", "line 2: a token without a tag"),
    (CONLLU + "3\tbarks\tVERB\n", "line 10: a word of CoNLL-U is a number and nine more columns"),
    (CONLLU.replace("DET", "_"), r"line 3: this word has no tag \(UPOS is _\)"),
    ("1\tthe\tDT\n2\tdog\tNN\n\n1\ta\tDT\n", "numbers its words"),
    ("1 the DT\n2 dog NN\n", "numbers its words"),
    ("0\tthe\tDT\n1\tdog\tNN\n\n0\ta\tDT\n", "numbers its words"),
    ("the DT\nNew York NNP\n", "line 2: 3 columns, where the first line has 2"),
    ("the DT B-NP\ndog I-NP\n", "line 2: 2 columns, where the first line has 3")])
def test_refused(tmp_path, text, message):
    with pytest.raises(ValueError, match=rf"x\.conll.*{message}"):
        read(tmp_path, text)


def test_other_encodings_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"x\.conll is not UTF-8 text \(byte 3\)"):
        read(tmp_path, "caf\u00e9\tNN\n", "latin-1")


def test_tags_count_every_line(tmp_path):
    """Also a last empty one, as in the original: its file has 48 tags and 49 lines."""
    (tmp_path / "tags.txt").write_text("\ufeffNN\nVB\n\n", encoding="utf-8")
    assert lines_of(tmp_path / "tags.txt") == ["NN", "VB", ""]
