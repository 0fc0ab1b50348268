"""Whole models for the recorded cases of the TNN: built, trained and evaluated by stock fairseq."""

import re
from argparse import Namespace

import torch
import torch.nn.functional as F
from fairseq import checkpoint_utils, models, optim, options, utils
from fairseq.data import Dictionary
from fairseq.dataclass.utils import convert_namespace_to_omegaconf
from fairseq_cli import eval_lm as fairseq_eval_lm

import tnn.fairseq_plugin  # noqa: F401  registers the architectures
from tests.golden.case import close

PAD = 1


class Task:
    """What a model asks of a fairseq task: dictionaries of a given size."""

    def __init__(self, size: int):
        self.source_dictionary = self.target_dictionary = Dictionary()
        for i in range(size - len(self.source_dictionary)):
            self.source_dictionary.add_symbol(f"w{i}")


def build(args, size: int):
    """A model from resolved arguments, as fairseq builds one from a checkpoint."""
    return models.build_model(Namespace(**vars(args)), Task(size))


def build_from_shapes(shapes: dict, seed: int):
    """A freshly initialised model whose parameters have these shapes."""
    roberta = any(name.startswith("encoder.") for name in shapes)
    side = "encoder" if roberta else "decoder"
    inside = "encoder.sentence_encoder." if roberta else "decoder."
    layers = {int(m[1]) for n in shapes if (m := re.search(r"\.layers\.(\d+)\.self_attn", n))}
    first = {n.split("layers.0.", 1)[1]: s for n, s in shapes.items()
             if n.startswith(f"{inside}layers.0.")}
    rpe = "self_attn.gtu.toep.rpe."
    vocabulary, width = shapes[f"{inside}embed_tokens.weight"]
    args = Namespace(
        arch="roberta_tnn_v2_decay_99" if roberta else "tnn_v2_decay_99_pre",
        tokens_per_sample=64, share_decoder_input_output_embed=True,
        glu_dim=first["glu.l1.weight"][0],
        rpe_embedding=first[f"{rpe}pos_proj.weight"][0],
        rpe_layers=sum(n.startswith(f"{rpe}layers") and n.endswith("weight") for n in first),
        **{f"{side}_embed_dim": width, f"{side}_layers": len(layers)})
    torch.manual_seed(seed)
    return build(args, vocabulary)


def loss_sum(model, tokens, target):
    """Summed loss in nats: over the masked positions of a masked LM, else over all but padding."""
    if hasattr(model, "encoder"):
        chosen = target.ne(PAD)
        return F.cross_entropy(model(tokens, masked_tokens=chosen)[0], target[chosen],
                               reduction="sum")
    output = model(tokens)
    if model.decoder.adaptive_softmax is not None:
        return adaptive_loss(model, output[0], target)
    return F.cross_entropy(output[0].flatten(0, 1), target.flatten(), ignore_index=PAD,
                           reduction="sum")


def adaptive_loss(model, features, target):
    """fairseq's adaptive_loss: the sum over head and tails."""
    scores, targets = model.decoder.adaptive_softmax(features, target.flatten())
    return sum(F.cross_entropy(s, t, ignore_index=PAD, reduction="sum")
               for s, t in zip(scores, targets, strict=True) if t is not None)


def replay(case, record, tolerance):
    """Trains on the recorded batches with the recorded command's model and optimiser."""
    parser = options.get_training_parser()
    args = options.parse_args_and_arch(parser, record["argv"].split())
    cfg = convert_namespace_to_omegaconf(args)
    state = case.below("init/")
    table = next(v for n, v in state.items() if n.endswith("embed_tokens.weight"))
    model = models.build_model(cfg.model, Task(len(table)))
    model.load_state_dict(state, strict=True)
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = optim.build_optimizer(cfg.optimizer, parameters)
    model.train()
    for u, update in enumerate(record["updates"]):
        optimizer.zero_grad()
        for m, theirs in enumerate(update["loss_sum_nats"]):
            loss = loss_sum(model, case[f"u{u:02}/m{m}/src_tokens"], case[f"u{u:02}/m{m}/target"])
            loss.backward()
            close(loss, torch.tensor(theirs), 0, tolerance, f"loss of update {u + 1}, batch {m}")
        optimizer.multiply_grads(1 / sum(update["sample_size"]))
        norm = utils.clip_grad_norm_(parameters, cfg.optimization.clip_norm)
        close(norm, torch.tensor(update["grad_norm_before_clip"]), 0, tolerance,
              f"gradient norm of update {u + 1}")
        optimizer.set_lr(update["lr_used"])
        optimizer.step()
    ours = model.state_dict()
    for name, theirs in case.below("final/").items():
        close(ours[name], theirs, 1e-5, what=f"final {name}")


def load_fork_checkpoint(path, data):
    """The model of a checkpoint that the authors' fork wrote."""
    found, _, _ = checkpoint_utils.load_model_ensemble_and_task(
        [str(path)], arg_overrides={"data": str(data)})
    return found[0].eval()


@torch.no_grad()
def score_blocks(model, tokens, target, length):
    """Log-probability of each target, in blocks of that length."""
    scores = []
    for start in range(0, len(tokens), length):
        block = slice(start, start + length)
        logits = model(tokens[block].unsqueeze(0))
        lprobs = model.get_normalized_probs(logits, log_probs=True)[0]
        scores.append(lprobs.gather(1, target[block].unsqueeze(1)).squeeze(1))
    return torch.cat(scores)


def eval_lm(checkpoint, data, length):
    """fairseq-eval-lm with length_extrapolation.sh's flags, in this process."""
    overrides = {"max_tokens": length, "tokens_per_sample": length, "max_target_positions": length}
    flags = {"path": checkpoint, "sample-break-mode": "none", "max-tokens": length,
             "max-sentences": 1, "tokens-per-sample": length, "max-target-positions": length,
             "context-window": 0, "model-overrides": overrides, "num-workers": 0}
    argv = [str(data), *(str(part) for name, value in flags.items()
                         for part in (f"--{name}", value))]
    args = options.parse_args_and_arch(options.get_eval_lm_parser(), argv)
    return fairseq_eval_lm.main(convert_namespace_to_omegaconf(args))
