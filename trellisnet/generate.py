"""Samples text from a trained language model, one token at a time.

    python generate.py --task word_PTB --load Trellis_wordPTB.pt --words 100 --prompt "the company"
    python generate.py --task char_PTB --load Trellis_charPTB.pt --words 500

A step costs each level one position: the levels' last states are kept, so what comes out is what
the network would say with the whole text before it.
"""

import sys
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path

if __package__ in (None, ""):
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from harness import flags
from harness.home import home
from trellisnet.char_PTB.utils import DATASETS

HERE = home(__file__)
DATA = {"word_PTB": "word_PTB/data/penn", "word_WT103": "word_WT103/data/wikitext-103",
        "char_PTB": "char_PTB/data"}


# ------------------------------------------------------------------------------------- settings
def parse_args(argv: list[str] | None = None) -> Namespace:
    p = flags.parser("Samples text from a trained TrellisNet language model")
    p.add_argument("--task", default="word_PTB", choices=DATA, help="which script trained it")
    p.add_argument("--load", required=True, metavar="FILE", help="model file of that script")
    p.add_argument("--data", default=None, metavar="DIR",
                   help="texts that it was trained on, for the vocabulary (None: the task's)")
    p.add_argument("--dataset", default="ptb", choices=DATASETS,
                   help="char_PTB: which text")
    p.add_argument("--prompt", default="", metavar="TEXT", help="text to go on from")
    p.add_argument("--words", type=int, default=100, metavar="N", help="tokens to generate")
    p.add_argument("--temperature", type=float, default=1.0,
                   help="below 1 safer tokens, above 1 bolder ones")
    p.add_argument("--top-k", type=int, default=0, metavar="K",
                   help="choose among the K most probable tokens only (0: all)")
    p.add_argument("--seed", type=int, default=1111, help="same seed, same text")
    p.add_argument("--outf", default="-", metavar="FILE",
                   help="text file to write, UTF-8; - for standard output")
    flags.add_machine(p)
    args = flags.parse(p, argv)
    if not args.temperature >= 1e-3:
        p.error("--temperature has to be greater or equal 1e-3")
    flags.check(p, args, not_negative=("words", "top_k"))
    args.data = args.data or str(HERE / DATA[args.task])
    return args


if __name__ == "__main__":
    parse_args()  # -h and typing mistakes answer before torch is imported

import torch
from torch import Tensor

from harness.endings import BadInput, orderly_exit
from harness.inputs import load_in_turn
from harness.machine import make_fabric
from trellisnet import model_files
from trellisnet.char_PTB import model as char_model
from trellisnet.char_PTB.data import Characters
from trellisnet.lm import TrainingLoss, TrellisNetLM
from trellisnet.text import EOS
from trellisnet.trellisnet import TrellisNet
from trellisnet.word_PTB import model as word_model
from trellisnet.word_PTB.data import load_corpus
from trellisnet.word_WT103 import model as wt103_model

BUILD = {"word_PTB": word_model.build, "word_WT103": wt103_model.build,
         "char_PTB": char_model.build}


# ------------------------------------------------------------------------------------ generation
class Stream:
    """A TrellisNet fed one time step at a time; `step` gives the output that `forward` would give
    there with all steps before it.

    Level l needs the states of the level below at the last (k-1)d and d steps; left of the first
    step they are h0, c0 (for the input: zero), as in the equations.
    """

    def __init__(self, net: TrellisNet, batch_size: int = 1):
        self.net = net
        entries = 1 + max(max(net.kernel_size - 1, 1) * d for d in net.dilations)
        h0, c0 = net.init_hidden(batch_size)
        self.x = [h0.new_zeros(batch_size, net.ninp)] * entries       # the latest last
        self.h = [[h0] * entries for _ in range(net.nlevels)]         # of the level below
        self.c = [[c0] * entries for _ in range(net.nlevels)]
        self.weight1 = net.effective_weight("weight1").unbind(-1)     # taps, the oldest first
        self.weight2 = net.effective_weight("weight2").unbind(-1)

    def step(self, x: Tensor) -> Tensor:
        """x (N, E) -> output (N, nout)."""
        net, k = self.net, self.net.kernel_size
        push(self.x, x)
        h = c = torch.zeros_like(self.h[0][-1])
        for d, below_h, below_c in zip(net.dilations, self.h, self.c, strict=True):
            push(below_h, h)
            push(below_c, c)
            a = net.bias2
            for j in range(k):
                back = -1 - (k - 1 - j) * d                           # -1 is the present
                a = a + self.x[back] @ self.weight1[j].t() + below_h[back] @ self.weight2[j].t()
            i, o, g, f = a.chunk(4, dim=-1)
            c = f.sigmoid() * below_c[-1 - d] + i.sigmoid() * g.tanh()
            h = o.sigmoid() * c.tanh()
        return h[:, -net.nout:]


def push(past: list[Tensor], present: Tensor) -> None:
    """Appends the present, drops the farthest past."""
    past.append(present)
    del past[0]


def log_probability(loss: TrainingLoss, output: Tensor) -> Tensor:
    """output (N, nout) -> log-probabilities (N, V)."""
    model: TrellisNetLM = loss.model
    if loss.criterion.splits:
        return loss.criterion.logprob(model.decoder.weight, model.decoder.bias, output)
    scores = model.decode(output)
    return scores if model.mixsoft else scores.log_softmax(-1)


@torch.no_grad()
def generate(loss: TrainingLoss, start: list[int], tokens: int, temperature: float = 1.0,
             top_k: int = 0) -> Iterator[int]:
    """Yields `tokens` ids, each sampled (on the CPU) given `start` and all before it."""
    loss.eval()
    stream, embedding = Stream(loss.model.tnet), loss.model.encoder.weight
    for word in start[:-1]:
        stream.step(embedding[word][None])
    word = start[-1]
    for _ in range(tokens):
        scores = log_probability(loss, stream.step(embedding[word][None]))[0].float().cpu()
        if top_k:
            kept = scores.topk(min(top_k, len(scores)))
            scores = torch.full_like(scores, -torch.inf).scatter(0, kept.indices, kept.values)
        # The largest weight is 1: exp cannot overflow at any temperature.
        word = int(torch.multinomial(((scores - scores.max()) / temperature).exp(), 1))
        yield word


def prompt_ids(prompt: str, spaced: bool, vocabulary: list[str]) -> list[int]:
    """Ids of the prompt behind a line's end, <unk> for unknown words. Raises BadInput."""
    index = {token: n for n, token in enumerate(vocabulary)}
    unknown = index.get("<unk>")
    tokens = prompt.split() if spaced else list(prompt)
    ids = [index.get(token, unknown) for token in tokens]
    if None in ids:
        raise BadInput(f"--prompt: {tokens[ids.index(None)]!r} is not in the vocabulary of --data")
    return [index[EOS], *ids]


def run(args: Namespace) -> None:
    fabric = make_fabric(args)
    spaced = args.task != "char_PTB"
    corpus = load_in_turn(fabric, lambda: load_corpus(args.data) if spaced
                          else Characters(args.data, args.dataset), f"--data {args.data}")
    content = model_files.read(args.load)
    trained = Namespace(**content["args"])
    if content.get("vocabulary") != corpus.digest():
        raise BadInput(f"--load {args.load} was trained on other words than those of --data "
                       f"{args.data}")
    try:
        loss = BUILD[args.task](trained, len(corpus))
        loss.load_state_dict(content["model"])
    except (AttributeError, RuntimeError):
        raise BadInput(f"--load {args.load} is no model of --task {args.task}: give the script "
                       "that trained it") from None
    loss = fabric.to_device(loss)
    start = prompt_ids(args.prompt, spaced, corpus.words)
    torch.manual_seed(args.seed)  # building the model has drawn from the stream
    between = " " if spaced else ""
    with (open(1, "w", encoding="utf-8", closefd=False) if args.outf == "-"
          else open(args.outf, "w", encoding="utf-8")) as out, fabric.autocast():
        out.write(args.prompt + between if args.prompt else "")
        for word in generate(loss, start, args.words, args.temperature, args.top_k):
            token = corpus.words[word]
            out.write("\n" if token == EOS else token + between)
        out.write("\n")


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    with orderly_exit("generate.py"):
        run(args)


if __name__ == "__main__":
    main()
