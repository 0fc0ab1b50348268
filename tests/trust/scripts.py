"""Every script that trains, in one table: how a tiny run of it is started, what it leaves.

A run is a folder: the script writes below it, the data lie elsewhere and are shared. The settings
are chosen so that forty updates see epochs end, the learning rate change and averaging begin.
"""

import random
from dataclasses import dataclass
from pathlib import Path

from harness import files
from tests.awd_lstm.small import write_corpus
from tests.sparse_seq.small import write_sentences
from tests.trellisnet.small import write_digits

TINY_LSTM = "--emsize 6 --nhid 8 --nlayers 2 --batch_size 8 --bptt 15 --seed 7 --log-interval 3"
TINY_TRELLIS = ("--device cpu --log-interval 3 --seed 7 --emsize 8 --nhid 10 --nout 8 --nlevels 4 "
                "--horizon 4 --aux_freq 2 --batch_size 16")
TINY_SPARSE = ("--emsize 8 --nhid 10 --nlayers 2 --batch_size 6 --bptt 15 --log-interval 3 "
               "--seed 7 --no-cuda")
NO_AWD_DROPOUT = "--dropout 0 --dropouth 0 --dropouti 0 --dropoute 0 --wdrop 0"
NO_TRELLIS_DROPOUT = "--dropout 0 --dropouti 0 --dropouth 0 --wdrop 0"


@dataclass(frozen=True)
class Script:
    """One script, small."""

    name: str
    module: str                      # its main(argv) runs it
    flags: str                       # of the tiny run
    state: str                       # the training state, below the run's folder
    models: tuple[str, ...]          # what else it writes with its checkpoint code
    data: str = "texts"              # which of the shared data
    save: str = "m.pt"               # what --save names, below the run's folder
    before: str = ""                 # the script whose finished run it starts from
    says: str = "main.py"            # how its complaints begin
    takes: tuple[str, ...] = ("--resume",)      # further flags that name a checkpoint
    no_dropout: str = ""             # flags under which several processes compute what one does
    changes: tuple[str, ...] = ()    # what must be seen in the output of the unbroken run
    several: bool = True             # --devices
    paths: str = "--data {data} --save {save} --log-dir {logs}"
    closing: int = 2                 # lines that end every run

    def argv(self, folder: Path, data: Path, *more) -> list[str]:
        paths = self.paths.format(data=data / self.data, save=folder / self.save,
                                  logs=folder / "logs")
        return [*self.flags.split(), *paths.split(), "--save-interval", "3", *map(str, more)]

    def read(self, path: Path) -> dict:
        """A file of this script, by the code that the script itself reads it with."""
        return files.read(path)


AWD = {"takes": ("--resume",), "no_dropout": NO_AWD_DROPOUT}
TRELLIS = {"state": "m.pt.state", "takes": ("--resume", "--load", "--load_weight")}
SPARSE = {"save": "run"}

SCRIPTS = {script.name: script for script in (
    Script("awd-main", "awd_lstm.main", f"{TINY_LSTM} --lr 30 --nonmono 0 --epochs 6 --no-cuda",
           "m.pt.state", ("m.pt",), changes=("Switching to ASGD",), **AWD),
    Script("awd-qrnn", "awd_lstm.main",
           f"{TINY_LSTM} --model QRNN --optimizer adam --lr 0.01 --when 2 --epochs 6 --no-cuda",
           "m.pt.state", ("m.pt", "m.pt.e2"), changes=("Dividing learning rate by 10",), **AWD),
    Script("awd-finetune", "awd_lstm.finetune",
           f"{TINY_LSTM} --lr 20 --nonmono 5 --epochs 6 --no-cuda", "m.pt.finetune.state",
           ("m.pt",), before="awd-main", says="finetune.py", changes=("end of epoch",),
           **AWD | {"takes": ("--resume", "--save")}),
    Script("scratch-main", "awd_lstm.scratch.main",
           f"{TINY_LSTM} --lr 30 --nonmono 0 --epochs 6 --no-cuda", "m.pt.state",
           ("m.pt",), several=False, changes=("Switching to ASGD",), **AWD),
    Script("scratch-finetune", "awd_lstm.scratch.main",
           f"{TINY_LSTM} --lr 20 --nonmono 5 --epochs 6 --finetune --no-cuda",
           "m.pt.finetune.state", ("m.pt",), before="scratch-main", several=False,
           changes=("epoch:",), **AWD | {"takes": ("--resume", "--save")}),
    Script("word-ptb", "trellisnet.word_PTB.word_ptb",
           f"{TINY_TRELLIS} --seq_len 10 --lr 40 --clip 5 --anneal 0 --epochs 6 --asgd --name m",
           models=("m.pt", "m.pt.asgd"), says="word_ptb.py", changes=("Switching to ASGD",),
           no_dropout=f"{NO_TRELLIS_DROPOUT} --emb_dropout 0", **TRELLIS),
    Script("word-wt103", "trellisnet.word_WT103.word_wt103",
           f"{TINY_TRELLIS} --horizon 8 --lr 0.01 --splits 8 20 --wdrop 0.2 --emb_dropout 0.1 "
           "--epochs 6 --when 2 --name m", models=("m.pt",), says="word_wt103.py",
           changes=("Annealing learning rate",),
           no_dropout=f"{NO_TRELLIS_DROPOUT} --emb_dropout 0", **TRELLIS),
    Script("char-ptb", "trellisnet.char_PTB.char_ptb",
           f"{TINY_TRELLIS} --lr 0.01 --dataset pydoc --batch_size 64 --epochs 5 --when 2 --name m",
           models=("m.pt",), says="char_ptb.py", changes=("Annealing learning rate",),
           no_dropout=f"{NO_TRELLIS_DROPOUT} --emb_dropout 0", **TRELLIS),
    Script("seq-images", "trellisnet.seq_MNIST_CIFAR.seq_mnist_cifar",
           "--device cpu --log-interval 3 --seed 7 --nhid 6 --nlevels 3 --dilation 1 2 4 "
           "--batch_size 8 --lr 0.01 --epochs 6 --when 2 --name m", models=("m.pt",),
           data="images", says="seq_mnist_cifar.py", changes=("lr: 0.001000",),
           no_dropout=NO_TRELLIS_DROPOUT, **TRELLIS | {"takes": ("--resume", "--load")}),
    Script("sparse-main", "sparse_seq.language_modeling.main",
           f"{TINY_SPARSE} --sparse_mode sparse_all --sparse_fract 0.7 --emblocks 2 --emdensity "
           "0.6 --lr 30 --nonmono 0 --epochs 5", "run/state.pt",
           ("run/model.pt", "run/optimizer.pt", "run/corpus.pt"), changes=("Switching!",),
           no_dropout=NO_AWD_DROPOUT, **SPARSE),
    Script("sparse-finetune", "sparse_seq.language_modeling.finetune",
           f"{TINY_SPARSE} --lr 8 --epochs 5", "run/finetune_state.pt",
           ("run/finetune_model.pt", "run/finetune_optimizer.pt"), before="sparse-main",
           says="finetune.py", changes=("end of epoch",), no_dropout=NO_AWD_DROPOUT, **SPARSE),
    Script("sparse-recite", "sparse_seq.language_modeling.main_overfit",
           f"{TINY_SPARSE} --lr 1 --epochs 5 --small_batch_size 3", "run/state.pt",
           ("run/model.pt", "run/optimizer.pt", "run/corpus.pt"), says="main_overfit.py",
           changes=("train items correctly",), **SPARSE),
    Script("sparse-tagger", "sparse_seq.sequence_labeling.main",
           "--emsize 8 --emb_blocks 4 --emb_density 0.5 --nhid 5 --batch_size 5 --dropouti 0.2 "
           "--wdrop 0.2 --lr 0.01 --epochs 6 --seed 7 --device cpu", "run/state.pt",
           ("run/model.pt",), data="tagged", changes=("valid acc",),
           no_dropout="--dropouti 0 --wdrop 0", **SPARSE),
    Script("tnn-im", "tnn.im.main",
           "--data-set DIGITS --input-size 16 --arch-options patch_size=8 embed_dim=8 glu_dim=8 "
           "depth=2 rpe_embdding=8 --device cpu --num_workers 0 --batch-size 10 --epochs 7 "
           "--warmup-epochs 2 --lr 0.05 --clip-grad 5 --seed 7 --stochastic-depth 0.2",
           "run/checkpoint_last.pth", ("run/checkpoint_best.pth", "run/checkpoint_0.pth"),
           data="images", save="run", changes=("Max accuracy",),
           no_dropout="--stochastic-depth 0 --mixup 0 --cutmix 0",
           paths="--data-path {data} --output_dir {save} --log-dir {logs}", closing=0),
    Script("tnn-lra", "tnn.lra.main",
           "--task listops --arch tno --n-layers 1 --d-model 8 --dpb-dim 8 --dpb-layers 1 --norm "
           "layer --dropout 0.1 --batch-size 4 --epochs 5 --warmup 5 --total-steps 60 --lr 0.01 "
           "--workers 0 --device cpu --log-interval 3 --seed 7", "m.pt.state", ("m.pt",),
           data="lra", changes=("epoch",),
           no_dropout="--dropout 0 --position-dropout 0", closing=0),
)}


def write_data(folder: Path) -> Path:
    """The texts, images and tagged sentences that all runs share."""
    write_corpus(folder / "texts", train=150, valid=25, test=25)
    write_digits(folder / "images", train=61)
    write_sentences(folder / "tagged", train=40)
    write_listops(folder / "lra/listops")
    return folder


def write_listops(folder: Path) -> None:
    """Nested maxima and minima with their values."""
    rng = random.Random(3)

    def draw(depth: int) -> tuple[str, int]:
        if not depth:
            value = rng.randrange(10)
            return str(value), value
        name, function = rng.choice((("[MAX", max), ("[MIN", min)))
        texts, values = zip(*(draw(depth - 1) for _ in range(rng.randint(2, 3))), strict=True)
        return f"{name} {' '.join(texts)} ]", function(values)

    folder.mkdir(parents=True)
    for split, count in (("train", 40), ("val", 12), ("test", 12)):
        rows = ["\t".join(map(str, draw(rng.randint(1, 2)))) for _ in range(count)]
        (folder / f"basic_{split}.tsv").write_text("\n".join(["Source\tTarget", *rows]) + "\n")
