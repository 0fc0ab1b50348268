"""Continues a text with a trained autoregressive TNN, at a cost per token that does not grow.

    python tnn/lm/generate.py CHECKPOINT --bpe tnn/data/gpt2-bpe --prompt "The history of" \
        --tokens 100 [--memory window|etsc|full]

With --bpe the prompt is text; otherwise tokens of the dictionary, separated by blanks.
window and etsc are recurrences (network/recurrence.py); full computes everything anew for each
token: the reference. Prints prompt and continuation, and tokens per second on the error output.
"""

import sys
import time
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

if __package__ in (None, ""):
    sys.path[0] = str(Path(__file__).resolve().parents[2])

from harness import flags
from harness.endings import BadInput, bad_input, orderly_exit

if TYPE_CHECKING:
    from fairseq.data import Dictionary

MEMORY = ("window", "etsc", "full")


def parse_args(argv: list[str] | None = None) -> Namespace:
    p = flags.parser("Continues a text with a trained autoregressive TNN")
    p.add_argument("checkpoint", help="checkpoint of fairseq-train")
    p.add_argument("--data", metavar="DIR",
                   help="folder with the dictionary, for a checkpoint that does not hold it "
                        "(None: the data it was trained on)")
    p.add_argument("--prompt", default="", help="text with --bpe, else tokens")
    p.add_argument("--bpe", metavar="FOLDER", help="encoder.json and vocab.bpe of GPT-2")
    p.add_argument("--tokens", type=int, default=100, help="how many to add")
    p.add_argument("--memory", choices=MEMORY, default="window",
                   help="what is kept of the text so far")
    p.add_argument("--temperature", type=float, default=1.0, help="0: always the most likely token")
    p.add_argument("--seed", type=int, default=1, help="same seed, same text")
    p.add_argument("--outf", metavar="FILE", help="text file to write as well, UTF-8")
    flags.add_machine(p, cuda=False)
    args = flags.parse(p, argv)
    flags.check(p, args, not_negative=("tokens",))
    if args.temperature and not args.temperature >= 1e-3:  # less overflows
        p.error(f"--temperature must be 0 or at least 1e-3, not {args.temperature}")
    return args


if __name__ == "__main__":
    parse_args()  # -h and typing mistakes answer before torch is imported

import torch
from torch import Tensor

from harness.machine import make_fabric_of_tool
from harness.outputs import check_output, text_output
from tnn.lm.checkpoint import DECODER, load
from tnn.network.recurrence import MEMORIES


class DecoderLM:
    """A decoder of the fairseq plugin, called as TnnModel is: tokens (b, n) -> logits (b, n, V), or
    of the last position alone."""

    def __init__(self, model):
        self.decoder = model.decoder
        if self.decoder.adaptive_softmax is not None:
            raise ValueError("generation needs logits; this model has an adaptive softmax")

    def operators(self):
        return [layer.self_attn.gtu.toep for layer in self.decoder.layers]

    def __call__(self, tokens: Tensor, memories: list | None = None, last: bool = False) -> Tensor:
        d = self.decoder
        x = d.embed_scale * d.embed_tokens(tokens)
        x = x if d.project_in_dim is None else d.project_in_dim(x)
        for layer, memory in zip(d.layers, memories or [None] * len(d.layers), strict=True):
            x = layer.batch_first(x, memory)
        x = x[:, -1:] if last else x
        x = x if d.layer_norm is None else d.layer_norm(x)
        return d.output_layer(x if d.project_out_dim is None else d.project_out_dim(x))


def sampler(temperature: float, seed: int) -> Callable[[Tensor], Tensor]:
    """logits (b, V) -> tokens (b, 1); temperature 0 takes the most likely one."""
    generator = torch.Generator().manual_seed(seed)

    def choose(logits):
        if temperature == 0:
            return logits.argmax(-1, keepdim=True)
        shares = torch.softmax(logits.float().cpu() / temperature, -1)
        return torch.multinomial(shares, 1, generator=generator).to(logits.device)

    return choose


@torch.no_grad()
def generate(model, tokens: Tensor, count: int, choose, memory: str = "window") -> Tensor:
    """tokens (b, p) -> (b, p + count). model is a TnnModel or a DecoderLM in evaluation mode;
    memory is a name of recurrence.MEMORIES, or "full"."""
    memories = None
    if memory != "full":
        longest = tokens.shape[1] + count
        memories = [MEMORIES[memory](tno, longest) for tno in model.operators()]
    new = tokens
    for _ in range(count):
        logits = model(tokens if memories is None else new, memories, last=True)
        new = choose(logits[:, -1])
        tokens = torch.cat([tokens, new], dim=1)
    return tokens


def codec(folder: str | None) -> tuple[Callable[[str], list[str]], Callable[[list[str]], str]]:
    """(text -> tokens as words, words -> text) by GPT-2's byte pairs; without folder, words stay.
    Raises BadInput if its files are missing or damaged."""
    if folder is None:
        return str.split, " ".join
    names = [str(Path(folder) / name) for name in ("encoder.json", "vocab.bpe")]
    for name in names:
        if not Path(name).is_file():
            raise BadInput(f"no file {name}: ./getdata.sh gpt2-bpe")
    from fairseq.data.encoders.gpt2_bpe_utils import get_encoder

    with bad_input(f"--bpe {folder}: "):
        bpe = get_encoder(*names)
    return (lambda text: [str(number) for number in bpe.encode(text)],
            lambda words: bpe.decode([int(word) for word in words if word.isdigit()]))


def prompt_ids(dictionary: "Dictionary", words: list[str]) -> list[int]:
    """The end of a line, which every text begins behind, and the ids of the prompt's words."""
    missing = [word for word in words if word not in dictionary]
    if missing:
        print(f"--prompt: {', '.join(missing)} read as {dictionary.unk_word}", file=sys.stderr)
    return [dictionary.eos(), *map(dictionary.index, words)]


def text_of(dictionary: "Dictionary", ids: list[int], decode: Callable[[list[str]], str]) -> str:
    """dictionary.string would leave out the ends of lines."""
    lines = " ".join("\n" if i == dictionary.eos() else dictionary[i] for i in ids).split("\n")
    return "\n".join(decode(line.split()) for line in lines)


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    with orderly_exit("generate.py"):
        if args.outf is not None:
            check_output("--outf", args.outf, args.checkpoint)
        encode, decode = codec(args.bpe)
        fabric = make_fabric_of_tool(args)
        model, task = load(args.checkpoint, args.data, DECODER)
        with bad_input(f"{args.checkpoint}: "):
            decoder = DecoderLM(fabric.to_device(model))
        dictionary = task.source_dictionary
        ids = prompt_ids(dictionary, encode(args.prompt))
        start = time.perf_counter()
        # Not every model knows every memory.
        with bad_input(f"--memory {args.memory}: "), fabric.autocast():
            out = generate(decoder, torch.tensor([ids]).to(fabric.device), args.tokens,
                           sampler(args.temperature, args.seed), args.memory)
        seconds = time.perf_counter() - start
        text = text_of(dictionary, out[0, 1:].tolist(), decode)
        print(text)
        if args.outf is not None:
            with text_output(args.outf) as file:
                file.write(f"{text}\n")
        print(f"{args.tokens / seconds:.1f} tokens/s", file=sys.stderr)


if __name__ == "__main__":
    main()
