"""Trains a part-of-speech tagger with a dense or a sparse embedding (Demeester et al. 2018).

    ./getdata.sh pos
    cd sparse_seq/sequence_labeling
    python main.py --emsize 5 --nhid 10 --epochs 50 --dropouti 0.2 --wdrop 0.2 --save logs/pos_dense
    python main.py --emsize 20 --emb_density 0.25 --emb_blocks 20 --nhid 10 --epochs 50 \\
                   --dropouti 0.2 --wdrop 0.2 --save logs/pos_sparse
    -> test accuracy 94.8 and 96.1 on the Wall Street Journal part of the Penn Treebank (published);
       on CoNLL-2000, two minutes a run on one CPU core: see ../README.md

On data built on the spot, half a minute: ./getdata.sh tagging; python main.py --data data/tagging
--emsize 10 --nhid 10 --epochs 5 --lr 0.01 --save logs/small
"""

import argparse
import sys
from pathlib import Path

if __package__ in (None, ""):
    sys.path[0] = str(Path(__file__).resolve().parents[2])

from harness import flags
from harness.home import home
from sparse_seq.vocabulary import ORDERINGS

HERE = home(__file__)
ORDER_SEED = 1234  # the original's: the order of the batches does not depend on --seed
MOST_LAYERS = 1000


# ------------------------------------------------------------------------------------- settings
def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = flags.parser("LSTM tagger with a dense or sparse embedding")
    add_data_and_model(parser)
    add_training(parser)
    flags.add_run(parser, HERE / "logs")
    flags.add_machine(parser, cuda=False)
    flags.add_parallel(parser)
    args = flags.parse(parser, argv)
    flags.check(parser, args, positive=("emsize", "emb_blocks", "nhid", "layers"),
                not_negative=("momentum", "l2"), most={"layers": MOST_LAYERS},
                rates=("dropouti", "dropoute", "wdrop", "dropouth"))
    if args.optimizer != "sgd":
        flags.say_inert(args, {"momentum": f"with --optimizer {args.optimizer}: it is of sgd"})
    return args


def add_data_and_model(parser: argparse.ArgumentParser) -> None:
    g = parser.add_argument_group("data and model")
    g.add_argument("--data", default=default_data(), metavar="DIR",
                   help="folder with wsj_{train,valid,test}.conll and tags.txt, with CoNLL-2000 or "
                        "with Universal Dependencies; the original's is data/ptb")
    g.add_argument("--vocab_order", default="up", choices=ORDERINGS,
                   help="order of the words by frequency: up is rare to frequent")
    g.add_argument("--emsize", type=int, default=100, help="size of the word vectors")
    g.add_argument("--emb_blocks", type=int, default=1, help="blocks of the embedding")
    g.add_argument("--emb_density", type=float, default=1.0,
                   help="share of the embedding's entries that exist")
    g.add_argument("--nhid", type=int, default=50, help="hidden units per direction")
    g.add_argument("--layers", type=int, default=1, help="LSTM layers")


def add_training(parser: argparse.ArgumentParser) -> None:
    g = parser.add_argument_group("training")
    g.add_argument("--epochs", type=int, default=300, help="epochs; the last one is tested")
    g.add_argument("--batch_size", type=int, default=20, help="sentences per batch")
    g.add_argument("--optimizer", default="adam", choices=("adam", "sgd"), help="update rule")
    g.add_argument("--lr", type=float, default=0.001, help="learning rate")
    g.add_argument("--momentum", type=float, default=0, help="of sgd")
    g.add_argument("--l2", type=float, default=0, help="weight decay")
    g.add_argument("--dropouti", type=float, default=0, help="on the embedded input")
    g.add_argument("--dropoute", type=float, default=0, help="of whole words")
    g.add_argument("--wdrop", type=float, default=0, help="on the recurrent weights")
    g.add_argument("--dropouth", type=float, default=0, help="on the LSTM's output")
    g.add_argument("--seed", type=whole_number, default=1982,
                   help="seed of every random stream")
    g.add_argument("--save", default=str(HERE / "logs" / "tagger"), metavar="DIR",
                   help="folder for log.txt, the best model (model.pt) and the state (state.pt)")


def whole_number(text: str) -> int:
    """Also 1e3, as the original took it."""
    try:
        return int(float(text))
    except OverflowError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def default_data() -> str:
    """The original's data/ptb where there is one; it cannot be downloaded, CoNLL-2000 can."""
    return str(HERE / "data" / ("ptb" if (HERE / "data" / "ptb").is_dir() else "conll2000"))


if __name__ == "__main__":
    parse_args()  # -h and typing mistakes are answered before torch is imported

import numpy as np
import torch

from harness import machine
from harness.endings import BadInput, bad_input
from harness.inputs import digest_of, load_in_turn
from harness.keeper import Keeper
from sparse_seq.first_release import upgrade
from sparse_seq.sequence_labeling.data import TaggedCorpus, make_batch, training_order
from sparse_seq.sequence_labeling.model import Tagger
from sparse_seq.sequence_labeling.utils import (
    BatchLoss,
    Run,
    accuracy,
    make_optimizer,
    model_content,
    share_of,
)


# ------------------------------------------------------------------------------- data and model
def load_corpus(args: argparse.Namespace, keeper: Keeper) -> TaggedCorpus:
    name = "tagging" if Path(args.data).name == "tagging" else "pos"
    corpus = load_in_turn(keeper.fabric, lambda: TaggedCorpus(args.data, args.vocab_order),
                          "--data", f"./getdata.sh {name} fetches what it knows")
    if (count := len(corpus.parts["train"])) < args.batch_size:
        raise BadInput(f"--data: {corpus.paths['train']} has {count} sentences for training, fewer "
                       f"than a batch: give a --batch_size of at most {count}, or more sentences")
    return corpus


def build(args: argparse.Namespace, keeper: Keeper) -> Run:
    """Data, model and optimizer, at the beginning."""
    fabric, corpus = keeper.fabric, load_corpus(args, keeper)
    with bad_input("--emb_density, --emb_blocks: "):
        model = Tagger(len(corpus.words), args.emsize, args.nhid, len(corpus.tags), args.layers,
                       args.emb_blocks, args.emb_density, args.dropouti, args.dropoute,
                       args.dropouth, args.wdrop)
    compiled = torch.compile(model, dynamic=True) if args.compile else model
    loss = fabric.setup_module(BatchLoss(compiled))
    machine.own_stream(fabric, args.seed)
    return Run(args, keeper, corpus, model, loss, make_optimizer(args, model, fabric.device),
               np.random.RandomState(ORDER_SEED),
               {path.name: digest_of(path) for path in corpus.paths.values()})


def introduce(run: Run) -> None:
    """What is about to be trained."""
    say, model, embedding = run.keeper.say, run.model, run.model.word_embeddings
    words, rnn, total = (sum(weight.numel() for weight in module.parameters())
                         for module in (embedding, model.lstm, model))
    say(f"Args: {run.args}\nnumber of tokens in vocab: {len(run.corpus.words)}\n"
        f"tag set size: {len(run.corpus.tags)}")
    for path, tags in run.corpus.untrained.items():
        say(f"{path} has tags that {run.corpus.paths['train']} has not, which cannot be learnt: "
            f"{', '.join(tags)}")
    say(f"vocabulary per block: {[len(block.weight) for block in embedding.embedders]}\n"
        f"widths of the blocks: {embedding.block_widths}")
    say(f"word embeddings: {words / 1e6:.3f}M params; rnn {rnn / 1e6:.3f}M params; "
        f"total {total / 1e6:.3f}M params.")


# ------------------------------------------------------------------------------------- training
def train_epoch(run: Run) -> bool:
    """Continues the current epoch to its end. False: --max-steps cut it short, and --resume will
    continue in the middle of it. Raises Interrupted."""
    p, sentences = run.progress, run.corpus.parts["train"]
    if run.order is None:
        run.order = training_order(sentences, run.args.batch_size, run.orders)
    run.model.train()
    while p.batch < len(run.order) and not run.keeper.out_of_steps():
        batch = make_batch([sentences[i] for i in run.order[p.batch]], run.keeper.fabric.device)
        run.keeper.later(p.losses.append, one_update(run, batch), over="sum")
        p.batch, p.step = p.batch + 1, p.step + 1
        run.keeper.after_update()
    return p.batch == len(run.order)


def one_update(run: Run, batch) -> torch.Tensor:
    """This process's part of the mean loss over the batch's tokens; processes share its
    sentences."""
    fabric, tokens = run.keeper.fabric, int(batch.lengths.sum())
    own = share_of(fabric, batch)
    run.optimizer.zero_grad()
    loss = run.loss(own.words, own.tags, own.lengths, tokens)
    # Gradients are averaged over the processes.
    fabric.backward(machine.weighted(loss, fabric.world_size))
    run.keeper.gradient_norm(run.model, loss)  # ends the run if it is not finite
    run.keeper.step(run.optimizer)
    return loss.detach()


def evaluate(run: Run, split: str) -> float:
    """Accuracy on a part of the data. Raises Interrupted."""
    with run.keeper.fabric.autocast():
        return accuracy(run.model, run.corpus.parts[split], run.args.batch_size,
                        run.keeper.fabric.device, run.keeper.stop_if_asked)


def end_of_epoch(run: Run) -> None:
    """Validation accuracy; keeps the best model, of equally good ones the first."""
    run.keeper.settle()
    p = run.progress
    valid, loss = evaluate(run, "valid"), np.float32(np.mean(p.losses))
    run.keeper.say(f"Epoch {p.epoch}: train loss {loss}, valid acc {valid}")
    run.keeper.log(train_loss=loss, valid_acc=valid)
    if valid > p.best_valid:
        p.best_valid, p.best_epoch = valid, p.epoch
        run.keeper.save_best(model_content(run, valid))
    p.epoch, p.batch, p.losses, run.order = p.epoch + 1, 0, [], None
    run.keeper.save()


def test(run: Run) -> float:
    """The last epoch's accuracy, as published, and that of the best epoch on validation."""
    p, last = run.progress, evaluate(run, "test")
    inside = p.batch > 0  # of an epoch that --max-steps cut short
    when = f"{p.batch} updates of epoch {p.epoch}" if inside else "last epoch"
    run.keeper.say(f"Finished: test accuracy after {when}: {last}")
    run.keeper.log(epoch=p.epoch if inside else p.epoch - 1, test_acc=last)
    if p.best_epoch:
        run.model.load_state_dict(run.keeper.read_best()["model"])
        run.keeper.say(f"Best on validation was epoch {p.best_epoch} with {p.best_valid}; its "
                       f"test accuracy: {evaluate(run, 'test')}")
    return last


def main(argv: list[str] | None = None) -> Run:
    args = parse_args(argv)
    with Keeper("sparse_seq/sequence_labeling/main.py", args, upgrade=upgrade, folder=True,
                also=("state.prev.pt",), text_log=lambda args: Path(args.save) / "log.txt"
                ) as keeper:
        run = build(args, keeper)
        keeper.resume(run)
        introduce(run)
        while run.progress.epoch <= args.epochs and not keeper.out_of_steps():
            if train_epoch(run):
                end_of_epoch(run)
        test(run)
    return run


if __name__ == "__main__":
    main()
