"""Samples text from a trained language model, one token at a time.

    python generate.py --load Trellis_wordPTB.pt --words 100 --prompt "the company"
    python generate.py --load Trellis_charPTB.pt --words 500

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
from trellisnet.args import add_trained


# ------------------------------------------------------------------------------------- settings
def parse_args(argv: list[str] | None = None) -> Namespace:
    p = flags.parser("Samples text from a trained TrellisNet language model")
    p.add_argument("--load", required=True, metavar="FILE",
                   help="model file of word_ptb.py, word_wt103.py or char_ptb.py, or an original's "
                        "state_dict (with --task and --data)")
    add_trained(p)
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
    return args


if __name__ == "__main__":
    parse_args()  # -h and typing mistakes answer before torch is imported

import torch
from torch import Tensor

from harness.endings import bad_input, orderly_exit
from harness.machine import make_fabric_of_tool
from harness.outputs import check_output, text_output
from texts.vocabulary import ids_of
from texts.words import EOS
from trellisnet.lm import TrainingLoss
from trellisnet.trained import load_trained, log_probability
from trellisnet.trellisnet import TrellisNet


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
    """Ids of the prompt behind a line's end, <unk> for unknown words, which are named on stderr.
    Raises BadInput if there is no <unk>."""
    index = {token: n for n, token in enumerate(vocabulary)}
    tokens = prompt.split() if spaced else list(prompt)
    with bad_input(f"--prompt {prompt!r}: "):
        ids = ids_of(tokens, index)
    if missing := [token for token in tokens if token not in index]:
        print(f"--prompt: {', '.join(missing)} read as <unk>", file=sys.stderr)
    return [index[EOS], *ids]


def run(args: Namespace) -> None:
    check_output("--outf", args.outf, args.load)
    fabric = make_fabric_of_tool(args)
    trained = load_trained("--load", args.load, args, fabric)
    spaced = trained.task != "char_PTB"
    start = prompt_ids(args.prompt, spaced, trained.words)
    torch.manual_seed(args.seed)  # building the model has drawn from the stream
    between = " " if spaced else ""
    with text_output(args.outf) as out, fabric.autocast():
        out.write(args.prompt + between if args.prompt else "")
        for word in generate(trained.loss, start, args.words, args.temperature, args.top_k):
            token = trained.words[word]
            out.write("\n" if token == EOS else token + between)
        out.write("\n")


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    with orderly_exit("generate.py"):
        run(args)


if __name__ == "__main__":
    main()
