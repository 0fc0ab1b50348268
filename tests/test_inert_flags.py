"""A flag that does nothing where it is given says so; one that does something is silent."""

import importlib

import pytest

SPARSE = "sparse_seq.language_modeling.main"
CLASSIFIER = "trellisnet.seq_MNIST_CIFAR.seq_mnist_cifar"
# script, what is typed, the flags that are named
CASES = [
    ("trellisnet.word_PTB.word_ptb", "--when 5 9 --dropoutl 0.1", ["--when 5 9", "--dropoutl 0.1"]),
    ("trellisnet.word_PTB.word_ptb", "--n_experts 3 --dropoutl 0.1 --anneal 3", []),
    ("trellisnet.char_PTB.char_ptb", "--anneal 3 --when 4", ["--anneal 3"]),
    ("trellisnet.word_WT103.word_wt103", "--anneal 3 --when 4", []),
    (CLASSIFIER, "--anneal 3 --aux_freq 7 --when 4", ["--anneal 3", "--aux_freq 7.0"]),
    (SPARSE, "--sparse_fract 0.5", ["--sparse_fract 0.5"]),
    (SPARSE, "--sparse_blocks 2 --sparse_density 0.6", []),
    (SPARSE, "--sparse_mode sparse_all --sparse_fract 0.5 --sparse_blocks 2",
     ["--sparse_blocks 2"]),
    ("sparse_seq.language_modeling.main_overfit", "--nonmono 7 --exact-loss",
     ["--nonmono 7", "--exact-loss"]),
    ("sparse_seq.sequence_labeling.main", "--momentum 0.9", ["--momentum 0.9"]),
    ("sparse_seq.sequence_labeling.main", "--momentum 0.9 --optimizer sgd", []),
    ("tnn.lra.main", "--task listops --color --level byte --min-freq 3",
     ["--level byte", "--color"]),
    ("tnn.lra.main", "--task cifar --color --contour-length 9", ["--contour-length 9"]),
    ("tnn.lra.main", "--task listops --no-use-decay --gamma 0.5", ["--gamma 0.5"]),
    ("tnn.lra.main", "--task imdb --gamma 0.5 --dpb-layers 2 --dpb-type 8", []),
    ("tnn.lra.main", "--task imdb --dpb-layers 2", ["--dpb-layers 2"]),
    ("tnn.lra.main", "--task imdb --arch gtu --dpb-layers 2 --dpb-type 8",
     ["--dpb-type 8", "--dpb-layers 2"]),
    ("awd_lstm.scratch.main", "--no-split --splits 4 9 --theta 2", ["--splits 4 9", "--theta 2.0"]),
    ("awd_lstm.scratch.main", "--splits 4 9 --pointer --theta 2", []),
    ("tnn.im.main", "--drop 0.1 --color-jitter 0.2 --sched step --decay-epochs 9",
     ["--drop 0.1", "--color-jitter 0.2"]),
    ("tnn.im.main", "", []),
]


@pytest.mark.parametrize(("script", "typed", "named"), CASES)
def test_a_flag_without_effect_says_so(script, typed, named, capsys):
    importlib.import_module(script).parse_args(typed.split())
    lines = capsys.readouterr().err.splitlines()
    assert [line.partition(": no effect, ")[0] for line in lines] == named
