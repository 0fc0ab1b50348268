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

import numpy as np
import torch

from sparse_seq import files, runs
from sparse_seq.sequence_labeling import utils
from sparse_seq.sequence_labeling.data import TaggedCorpus, make_batch, training_order
from sparse_seq.sequence_labeling.model import Tagger
from sparse_seq.vocabulary import ORDERINGS

HERE = Path(__file__).resolve().parent
ORDER_SEED = 1234  # the original's: the order of the batches does not depend on --seed


# ------------------------------------------------------------------------------------- settings
def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    p = argparse.ArgumentParser(description="LSTM tagger with a dense or sparse embedding",
                                formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    g = p.add_argument_group("data and model")
    g.add_argument("--data", default=default_data(), metavar="DIR",
                   help="folder with wsj_{train,valid,test}.conll and tags.txt, with CoNLL-2000 or "
                        "with UD English; the original's is data/ptb")
    g.add_argument("--vocab_order", default="up", choices=ORDERINGS,
                   help="order of the words by frequency: up is rare to frequent")
    g.add_argument("--emsize", type=int, default=100, help="size of the word vectors")
    g.add_argument("--emb_blocks", type=int, default=1, help="blocks of the embedding")
    g.add_argument("--emb_density", type=float, default=1.0,
                   help="share of the embedding's entries that exist")
    g.add_argument("--nhid", type=int, default=50, help="hidden units per direction")
    g.add_argument("--layers", type=int, default=1, help="LSTM layers")
    g = p.add_argument_group("training")
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
    g.add_argument("--save", default="results", metavar="DIR",
                   help="folder for log.txt, the best model (model.pt) and the state (state.pt)")
    runs.machine_flags(p, HERE / "logs")
    args = p.parse_args(argv)
    runs.check_flags(p, args, ("emsize", "emb_blocks", "nhid", "layers", "epochs", "batch_size",
                               "lr"),
                     ("dropouti", "dropoute", "wdrop", "dropouth"), ("momentum", "l2"))
    return args


def whole_number(text: str) -> int:
    """Also 1e3, as the original took it."""
    try:
        return int(float(text))
    except OverflowError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def default_data() -> str:
    """The original's data/ptb where there is one; it cannot be downloaded, CoNLL-2000 can."""
    return str(HERE / "data" / ("ptb" if (HERE / "data" / "ptb").is_dir() else "conll2000"))


# ------------------------------------------------------------------------------- data and model
def load_corpus(args: argparse.Namespace) -> TaggedCorpus:
    name = "tagging" if Path(args.data).name == "tagging" else "pos"
    try:
        return TaggedCorpus(args.data, args.vocab_order)
    except FileNotFoundError as error:
        raise runs.BadInput(f"--data: {error}; ./getdata.sh {name} fetches what it knows") from None
    except (ValueError, NotADirectoryError) as error:
        raise runs.BadInput(f"--data: {error}") from None


def build(args: argparse.Namespace) -> utils.Run:
    """Data, model and optimiser, at the start or where --resume says."""
    state = runs.read_state(args, "main.py")
    if state is not None and "progress" not in state:
        raise runs.BadInput("--resume takes a training state here (state.pt)")
    fabric = runs.make_fabric(args)
    folder = runs.run_folder(args.save, fabric)
    corpus = load_corpus(args)
    with runs.users("--emb_density, --emb_blocks"):
        model = Tagger(len(corpus.words), args.emsize, args.nhid, len(corpus.tags), args.layers,
                       args.emb_blocks, args.emb_density, args.dropouti, args.dropoute,
                       args.dropouth, args.wdrop)
    compiled = torch.compile(model, dynamic=True) if args.compile else model
    loss = fabric.setup_module(utils.BatchLoss(compiled))
    run = utils.Run(args, fabric, corpus, model, loss,
                    utils.make_optimizer(args, model, fabric.device),
                    np.random.RandomState(ORDER_SEED), folder)
    if fabric.global_rank:  # the same start everywhere, other dropout masks
        torch.manual_seed(args.seed + fabric.global_rank)
    if state is not None:
        utils.restore(run, state)
    elif fabric.is_global_zero:
        for name in ("model.pt", "state.pt", "state.prev.pt"):
            files.set_aside(folder / name)
    run.journal = runs.Journal(fabric, folder / "log.txt", runs.metrics_folder(args, state), state)
    run.stop = runs.StopSignals(fabric)
    introduce(run)
    return run


def introduce(run: utils.Run) -> None:
    """What is about to be trained."""
    say, model, embedding = run.journal.say, run.model, run.model.word_embeddings
    rnn, words = (sum(p.numel() for p in m.parameters()) for m in (model.lstm, embedding))
    total = sum(p.numel() for p in model.parameters())
    say(f"Args: {run.args}\nnumber of tokens in vocab: {len(run.corpus.words)}\n"
        f"tag set size: {len(run.corpus.tags)}")
    say(f"vocabulary per block: {[len(block.weight) for block in embedding.embedders]}\n"
        f"widths of the blocks: {embedding.block_widths}")
    say(f"word embeddings: {words / 1e6:.3f}M params; rnn {rnn / 1e6:.3f}M params; "
        f"total {total / 1e6:.3f}M params.")


# ------------------------------------------------------------------------------------- training
def train_epoch(run: utils.Run) -> None:
    """Goes on with the current epoch to its end, or to --max-steps. Raises Interrupted."""
    args, progress, sentences = run.args, run.progress, run.corpus.parts["train"]
    if run.order is None:
        run.order = training_order(sentences, args.batch_size, run.order_rng)
    run.model.train()
    while progress.batch < len(run.order) and not out_of_steps(run):
        batch = make_batch([sentences[i] for i in run.order[progress.batch]], run.fabric.device)
        progress.losses.append(one_update(run, batch))
        progress.batch, progress.step = progress.batch + 1, progress.step + 1
        if progress.step % args.save_interval == 0 or out_of_steps(run):
            utils.save_state(run)
        run.stop.check()


def one_update(run: utils.Run, batch) -> float:
    """The mean loss over the batch's tokens; processes share its sentences."""
    fabric, tokens = run.fabric, int(batch.lengths.sum())
    own = utils.share_of(fabric, batch)
    run.optimizer.zero_grad()
    loss = run.loss(own.words, own.tags, own.lengths, tokens)
    fabric.backward(loss * fabric.world_size)  # gradients are averaged over the processes
    utils.stop_unless_finite(run, loss)
    run.optimizer.step()
    return fabric.all_reduce(loss.detach(), reduce_op="sum").item()


def out_of_steps(run: utils.Run) -> bool:
    return bool(run.args.max_steps) and run.progress.step >= run.args.max_steps


def evaluate(run: utils.Run, split: str) -> float:
    with run.fabric.autocast():
        return utils.accuracy(run.model, run.corpus.parts[split], run.args.batch_size,
                              run.fabric.device)


def end_of_epoch(run: utils.Run) -> None:
    """Validation accuracy; keeps the best model."""
    p = run.progress
    valid, loss = evaluate(run, "valid"), np.float32(np.mean(p.losses))
    run.journal.say(f"Epoch {p.epoch}: train loss {loss}, valid acc {valid}")
    run.journal.log(p.step, p.epoch, train_loss=loss, valid_acc=valid)
    if valid > p.best_valid:
        p.best_valid, p.best_epoch = valid, p.epoch
        utils.save_model(run, valid)
    p.epoch, p.batch, p.losses, run.order = p.epoch + 1, 0, [], None
    utils.save_state(run)


def train(run: utils.Run) -> float:
    """Epochs until --epochs, --max-steps or a signal; then the test. Returns its accuracy."""
    p = run.progress
    try:
        while p.epoch <= run.args.epochs and not out_of_steps(run):
            train_epoch(run)
            if p.batch == len(run.order):
                end_of_epoch(run)
    except runs.Interrupted:
        utils.save_state(run)
        run.journal.say(f"Interrupted. To go on: the same command with --resume "
                        f"({run.folder / 'state.pt'})")
        raise
    return test(run)


def test(run: utils.Run) -> float:
    """The last epoch's accuracy, as published, and that of the best epoch on validation."""
    p, last = run.progress, evaluate(run, "test")
    run.journal.say(f"Finished: test accuracy after last epoch: {last}")
    run.journal.log(p.step, p.epoch - 1, test_acc=last)
    run.fabric.barrier()
    if p.best_epoch:
        with runs.users("--save"):
            best = files.read(run.folder / "model.pt")
        run.model.load_state_dict(best["model"])
        run.journal.say(f"Best on validation was epoch {p.best_epoch} with {p.best_valid}; its "
                        f"test accuracy: {evaluate(run, 'test')}")
    run.journal.close()
    return last


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    with runs.orderly_exit("main.py"):
        train(build(args))


if __name__ == "__main__":
    main()
