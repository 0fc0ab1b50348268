"""Continues a text with a trained autoregressive TNN, at a cost per token that does not grow.

    python tnn/lm/generate.py CHECKPOINT --data tnn/data/data-bin/wikitext-103 \
        --bpe tnn/data/gpt2-bpe --prompt "The history of" --tokens 100 [--memory window|etsc|full]

With --bpe the prompt is text; otherwise tokens of the dictionary, separated by blanks.
window and etsc are recurrences (network/recurrence.py); full computes everything anew for each
token: the reference. Prints prompt and continuation, and tokens per second on the error output.
"""

import argparse
import logging
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path

if __package__ in (None, ""):
    sys.path[0] = str(Path(__file__).resolve().parents[2])

from harness.endings import bad_input, orderly_exit

MEMORY = ("window", "etsc", "full")
PLUGIN = Path(__file__).resolve().parents[1] / "fairseq_plugin"


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("checkpoint")
    p.add_argument("--data", required=True, help="folder with the dictionary")
    p.add_argument("--prompt", default="", help="text with --bpe, else tokens")
    p.add_argument("--bpe", metavar="FOLDER", help="encoder.json and vocab.bpe of GPT-2")
    p.add_argument("--tokens", type=int, default=100, help="how many to add")
    p.add_argument("--memory", choices=MEMORY, default="window",
                   help="what is kept of the text so far")
    p.add_argument("--temperature", type=float, default=1.0, help="0: always the most likely token")
    p.add_argument("--seed", type=int, default=1, help="same seed, same text")
    p.add_argument("--outf", help="text file to write as well, UTF-8")
    return p.parse_args(argv)


if __name__ == "__main__":
    parse_args()  # -h and typing mistakes answer before torch is imported

import torch
from torch import Tensor

from tnn.network.recurrence import MEMORIES


class DecoderLM:
    """A decoder of the fairseq plugin, called as TnnModel is: tokens (b, n) -> logits (b, n, V)."""

    def __init__(self, model):
        self.decoder = model.decoder
        if self.decoder.adaptive_softmax is not None:
            raise ValueError("generation needs logits; this model has an adaptive softmax")

    def operators(self):
        return [layer.self_attn.gtu.toep for layer in self.decoder.layers]

    def __call__(self, tokens: Tensor, memories: list | None = None) -> Tensor:
        d = self.decoder
        x = d.embed_scale * d.embed_tokens(tokens)
        x = x if d.project_in_dim is None else d.project_in_dim(x)
        for layer, memory in zip(d.layers, memories or [None] * len(d.layers), strict=True):
            x = layer.batch_first(x, memory)
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
        logits = model(tokens if memories is None else new, memories)
        new = choose(logits[:, -1])
        tokens = torch.cat([tokens, new], dim=1)
    return tokens


def load(checkpoint: str, data: str):
    """The model and the dictionary. Raises ValueError for a checkpoint that is no TNN."""
    from fairseq import checkpoint_utils, utils
    from fairseq.models import MODEL_REGISTRY

    utils.import_user_module(argparse.Namespace(user_dir=str(PLUGIN)))
    models, _, task = checkpoint_utils.load_model_ensemble_and_task(
        [checkpoint], arg_overrides={"data": data})
    if not isinstance(models[0], MODEL_REGISTRY["tnn_v2_lm"]):
        raise ValueError(f"{checkpoint} holds no autoregressive TNN")
    return DecoderLM(models[0].eval()), task.source_dictionary


def codec(folder: str | None):
    """(text -> tokens as words, words -> text) by GPT-2's byte pairs; without folder, words stay.
    Raises ValueError if its files are missing."""
    if folder is None:
        return str.split, " ".join
    files = [str(Path(folder) / name) for name in ("encoder.json", "vocab.bpe")]
    for name in files:
        if not Path(name).is_file():
            raise ValueError(f"no file {name}: ./getdata.sh gpt2-bpe")
    from fairseq.data.encoders.gpt2_bpe_utils import get_encoder

    bpe = get_encoder(*files)
    return (lambda text: [str(number) for number in bpe.encode(text)],
            lambda words: bpe.decode([int(word) for word in words if word.isdigit()]))


def main() -> None:
    args = parse_args()
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")  # fairseq warns of its own old calls
    with orderly_exit("generate.py"):
        with bad_input():
            for path in (args.checkpoint, f"{args.data}/dict.txt"):
                if not Path(path).is_file():
                    raise FileNotFoundError(f"there is no file {path}")
            encode, decode = codec(args.bpe)
            model, dictionary = load(args.checkpoint, args.data)
        ids = [dictionary.eos(), *(dictionary.index(word) for word in encode(args.prompt))]
        start = time.perf_counter()
        out = generate(model, torch.tensor([ids]), args.tokens,
                       sampler(args.temperature, args.seed), args.memory)
        seconds = time.perf_counter() - start
        # dictionary.string would leave out the ends of lines
        lines = " ".join("\n" if i == dictionary.eos() else dictionary[i]
                         for i in out[0, 1:].tolist())
        text = "\n".join(decode(line.split()) for line in lines.split("\n"))
        print(text)
        if args.outf:
            Path(args.outf).write_text(f"{text}\n", encoding="utf-8")
        print(f"{args.tokens / seconds:.1f} tokens/s", file=sys.stderr)


if __name__ == "__main__":
    main()
