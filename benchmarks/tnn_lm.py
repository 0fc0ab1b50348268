"""A whole update of fairseq's language models: tnn_v2_decay_99_pre against transformer_lm with as
many layers of the same width, in tokens a second and peak memory.

    python benchmarks/tnn_lm.py [--rounds 3] [--threads N] [--batch 2] [--length 512]

Both have 7 layers of width 512 and GPT-2's vocabulary, tied, and are trained with fairseq's
criterion and Adam on random tokens. "plain" is ours with its layers written as the paper's
equations (tnn_block.py) and fairseq's log softmax, "+" the transformer with its linear layers by
the library that kernels/product.py chooses. The updates take turns in one process; medians. The
peak memory of each is that of a process that makes three of its updates.
"""

import argparse
import sys
import warnings
from functools import partial
from pathlib import Path

if __package__ in (None, ""):
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import torch
from torch import nn

from benchmarks.peaks import by_faster_library, describe, memory_alone, take_turns
from benchmarks.tnn_block import Written
from benchmarks.tnn_operator import plain
from harness.memory import keep_freed_memory, keep_freed_memory_later

ROOT = Path(__file__).resolve().parents[1]
WORDS = 50_260
COMMON = ("data --task language_modeling --share-decoder-input-output-embed --dropout 0.1 --cpu "
          "--optimizer adam --lr 0.0005 --weight-decay 0.2 --user-dir {plugin}")
ARCHITECTURES = {
    "ours": "--arch tnn_v2_decay_99_pre",
    "transformer": "--arch transformer_lm --decoder-layers 7 --decoder-embed-dim 512 "
                   "--decoder-ffn-embed-dim 2048 --decoder-attention-heads 8 "
                   "--decoder-normalize-before",
}
FORMS = {"ours": "ours", "plain": "ours", "transformer": "transformer",
         "transformer+": "transformer"}


def write_out(decoder: nn.Module) -> None:
    """The layers as their equations, and fairseq's own log softmax."""
    from fairseq.models import FairseqDecoder

    def written(layer: nn.Module):
        as_equations = Written(layer, plain)
        return lambda x, memory=None: as_equations(x)
    for layer in decoder.layers:
        layer.batch_first = written(layer)
    decoder.get_normalized_probs_scriptable = partial(
        FairseqDecoder.get_normalized_probs_scriptable, decoder)


class Stepper:
    """A model, its criterion and its optimiser."""

    def __init__(self, form: str, batch: int, length: int, bf16: bool = False):
        warnings.simplefilter("ignore")  # fairseq's own old calls
        from fairseq import optim, options, utils
        from fairseq.data import Dictionary
        from fairseq.dataclass.utils import convert_namespace_to_omegaconf
        from fairseq.optim.fp16_optimizer import FP16Optimizer
        from fairseq.tasks.language_modeling import LanguageModelingTask
        torch.manual_seed(1)
        words = f"{COMMON.format(plugin=ROOT / 'tnn/fairseq_plugin')} {ARCHITECTURES[FORMS[form]]}"
        argv = [*words.split(), "--tokens-per-sample", str(length)]
        utils.import_user_module(argparse.Namespace(user_dir=str(ROOT / "tnn/fairseq_plugin")))
        args = options.parse_args_and_arch(options.get_training_parser(), argv)
        cfg = convert_namespace_to_omegaconf(args)
        dictionary = Dictionary()
        for i in range(WORDS):
            dictionary.add_symbol(str(i))
        task = LanguageModelingTask(cfg.task, dictionary)
        self.model: nn.Module = task.build_model(cfg.model).train()
        if form == "plain":
            write_out(self.model.decoder)
        if form.endswith("+"):
            by_faster_library(self.model)
        self.criterion = task.build_criterion(cfg.criterion)
        weights = [p for p in self.model.parameters() if p.requires_grad]
        if bf16:  # as fairseq's trainer: rounded weights, and float32 ones that are updated
            self.model.bfloat16()
            cfg.common.bf16 = True
            self.optimizer = FP16Optimizer.build_optimizer(cfg, weights)
        else:
            self.optimizer = optim.build_optimizer(cfg.optimizer, weights)
        tokens = torch.randint(10, WORDS, (batch, length + 1))
        self.sample = {"net_input": {"src_tokens": tokens[:, :-1].contiguous(),
                                     "src_lengths": torch.full((batch,), length)},
                       "target": tokens[:, 1:].contiguous(), "ntokens": batch * length}

    def step(self) -> float:
        self.optimizer.zero_grad()
        loss, count, _ = self.criterion(self.model, self.sample)
        self.optimizer.backward(loss)
        self.optimizer.multiply_grads(1 / count)
        self.optimizer.clip_grad_norm(1.0)
        self.optimizer.step()
        return loss.item() / count


def three_steps(form: str, batch: int, length: int, threads: int) -> None:
    torch.set_num_threads(threads)
    if form == "ours":  # as its scripts do
        keep_freed_memory_later()
    stepper = Stepper(form, batch, length)
    for _ in range(3):
        stepper.step()


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    p.add_argument("--rounds", type=int, default=3)
    p.add_argument("--threads", type=int, default=torch.get_num_threads())
    p.add_argument("--batch", type=int, default=2)
    p.add_argument("--length", type=int, default=512)
    args = p.parse_args()
    peaks = {form: memory_alone(three_steps, form, args.batch, args.length, args.threads)
             for form in FORMS}
    torch.set_num_threads(args.threads)
    keep_freed_memory()
    describe()
    forms = {form: Stepper(form, args.batch, args.length) for form in FORMS}
    rates = {form: args.batch * args.length / seconds
             for form, seconds in take_turns(forms, args.rounds, args.threads).items()}
    for form, stepper in forms.items():
        count = sum(p.numel() for p in stepper.model.parameters())
        print(f"  {form:12} {count:,} parameters  {rates[form]:.0f} tokens/s  peak "
              f"{peaks[form]:.0f} MiB  ours / {form} {rates['ours'] / rates[form]:.2f}x")


if __name__ == "__main__":
    main()
