"""The plugin on stock fairseq: architectures, flags, incremental decoding, padding."""

import argparse
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("fairseq", reason="fairseq is not installed, see README: Installing")

from fairseq import models, options
from fairseq.dataclass.utils import convert_namespace_to_omegaconf
from fairseq.models.roberta import model as fairseq_roberta

import tnn.fairseq_plugin.roberta as tnn_roberta
from tests.golden.tnn_lm_runs import Task, build, loss_sum
from tnn.lm import architectures

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT / "tests/golden/cases/tnn_lm/cli/data-bin"
SMALL = ["--decoder-embed-dim", "16", "--decoder-layers", "2", "--rpe-layers", "1",
         "--tokens-per-sample", "32"]


def published(arch, size, monkeypatch):
    """The architecture at full size; no memory is filled."""
    for module in (fairseq_roberta, tnn_roberta):  # which would copy from and to the CPU
        monkeypatch.setattr(module, "init_bert_params", lambda module: None)
    with torch.device("meta"):
        return build(argparse.Namespace(arch=arch, share_decoder_input_output_embed=True,
                                        tokens_per_sample=512), size)


@pytest.mark.parametrize(("arch", "parameters"), [
    ("tnn_v2_decay_99_pre", 48_677_376),
    ("tnn_v2_decay_99_pre_l6", 45_400_064),
    ("tnn_v2_decay_99_pre_l12", 64_814_336),
    ("tnn_v2_decay_99_pre_l1", 48_531_776),
    ("tnn_v2_decay_99_pre_e768", 70_448_320),
    ("tnn_v2_decay_99_pre_glu_v2_gtu_v3", 48_670_208),
    ("roberta_tnn_v2_decay_99", 126_400_089),
])
def test_published_parameter_counts(arch, parameters, monkeypatch):
    model = published(arch, 50265 if "roberta" in arch else 50264, monkeypatch)
    assert sum(p.numel() for p in model.parameters()) == parameters
    if arch == "tnn_v2_decay_99_pre":
        assert sum(p.numel() for p in model.parameters() if p.requires_grad) == 48_666_624


@pytest.mark.parametrize("arch", architectures.names())
def test_every_architecture_builds(arch, monkeypatch):
    if "_ada" in arch:
        args = argparse.Namespace(arch=arch, decoder_layers=1, decoder_embed_dim=32,
                                  adaptive_input_cutoff="20,40", adaptive_softmax_cutoff="20,40",
                                  tokens_per_sample=8)
        assert len(build(args, 64).decoder.layers) == 1
    else:
        published(arch, 100, monkeypatch)


def parsed(*argv):
    """cfg.model and the model, by the command line's way."""
    args = options.parse_args_and_arch(
        options.get_training_parser(), [str(DATA), "--task", "language_modeling", *argv])
    cfg = convert_namespace_to_omegaconf(args)
    return cfg.model, models.build_model(cfg.model, Task(94))


def test_flags_are_heard():
    """The original's architectures overwrite layers, heads and the norm's place."""
    cfg, model = parsed("--arch", "tnn_v2_decay_99_post", *SMALL, "--gamma", "0.9",
                        "--decoder-normalize-before", "--decoder-attention-heads", "2")
    layer = model.decoder.layers[0]
    assert len(model.decoder.layers) == 2
    assert (cfg.gamma, cfg.glu_dim, cfg.decoder_input_dim) == (0.9, 16, 16)
    assert (layer.pre_norm, layer.self_attn.gtu.heads) == (True, 2)
    assert layer.self_attn.gtu.toep.gamma.unique().tolist() == [pytest.approx(0.9)]
    _, model = parsed("--arch", "tnn_v2_decay_99_post")
    assert len(model.decoder.layers) == 7
    assert not model.decoder.layers[0].pre_norm
    assert model.decoder.layer_norm is None


def test_model_name_is_no_architecture():
    with pytest.raises(ValueError, match="tnn_v2_decay_99_pre"):
        parsed("--arch", "tnn_v2_lm")


def test_unknown_architecture_in_one_line():
    done = subprocess.run([sys.executable, "-m", "tnn.lm.architectures", "tno_glu_lm"], cwd=ROOT,
                          capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "tnn_v2_decay_99_pre" in done.stderr
    assert done.stderr.count("\n") == 1


@torch.no_grad()
def test_incremental_decoding_equals_the_whole():
    """fairseq's generators give one more token each time and reorder the beams."""
    torch.manual_seed(0)
    _, model = parsed("--arch", "tnn_v2_decay_99_pre", *SMALL)
    model.eval()
    tokens = torch.randint(4, 90, (3, 30))
    state = {}
    for n in range(1, 30):
        if n == 15:
            order = torch.tensor([2, 2, 0])
            model.decoder.reorder_incremental_state_scripting(state, order)
            tokens = tokens[order]
        logits, _ = model.decoder(tokens[:, :n], incremental_state=state)
        expected, _ = model(tokens[:, :n])
        torch.testing.assert_close(logits[:, -1], expected[:, -1], atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_a_layer_batch_first():
    """generate.py calls the layers so."""
    _, model = parsed("--arch", "tnn_v2_decay_99_pre", *SMALL)
    layer, x = model.eval().decoder.layers[0], torch.randn(7, 2, 16)
    assert torch.equal(layer.batch_first(x.transpose(0, 1)), layer(x)[0].transpose(0, 1))


def test_no_mask_is_built():
    _, model = parsed("--arch", "tnn_v2_decay_99_pre", *SMALL)
    model(torch.randint(4, 90, (1, 30)))
    assert model.decoder._future_mask.numel() == 0


def roberta(**changes):
    torch.manual_seed(0)
    return build(argparse.Namespace(**(dict(
        arch="roberta_tnn_v2_decay_99", encoder_layers=2, encoder_embed_dim=16, rpe_layers=1,
        tokens_per_sample=32, dropout=0.0) | changes)), 40).eval()


def test_masked_padding():
    """The original's padding reaches the other positions; masked it does not."""
    tokens = torch.randint(4, 39, (2, 12))
    longer = torch.nn.functional.pad(tokens, (0, 5), value=1)
    for mask in (True, False):
        model = roberta(mask_padding=mask)
        model.register_classification_head("h", 3)
        model.eval()
        for parameter in model.parameters():
            parameter.data.uniform_(-0.5, 0.5)
        for call in ({}, {"classification_head_name": "h"}):
            short, long = model(tokens, **call)[0], model(longer, **call)[0]
            assert torch.allclose(short, long if call else long[:, :12], atol=1e-4) == mask


def test_classification_head_has_fairseqs_draws():
    """The same parameters as RobertaModel's, from the same seed, pooled over all positions."""
    model = roberta()
    args, heads = model.args, []
    for register in (type(model).register_classification_head,
                     fairseq_roberta.RobertaModel.register_classification_head):
        torch.manual_seed(4)
        register(model, "h", 3, 5)
        heads.append(model.classification_heads["h"].eval())
    ours, theirs = heads
    assert type(ours) is tnn_roberta.MeanClassificationHead
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.equal(a, b)
    assert (ours.dropout.p, ours.activation_fn) == (theirs.dropout.p, theirs.activation_fn)
    assert args.pooler_dropout == ours.dropout.p
    x = torch.randn(2, 4, 16)
    assert torch.equal(ours(x), theirs(x.mean(1, keepdim=True)))


def test_head_registered_again_with_other_sizes_is_logged(caplog):
    model = roberta()
    model.register_classification_head("h", 3)
    model.register_classification_head("h", 2)
    assert "re-registering head 'h'" in caplog.text
    assert model.classification_heads["h"].out_proj.out_features == 2


def test_masked_padding_tames_the_first_gradients():
    """A padded position is the zero vector until biases have grown; the post-norm behind it
    multiplies its gradient by 1e8."""
    norms = {}
    for mask in (True, False):
        model = roberta(mask_padding=mask)
        tokens = torch.randint(4, 39, (2, 12))
        tokens[1, 8:] = 1
        loss_sum(model, tokens, tokens).backward()
        bias = model.encoder.sentence_encoder.layers[0].self_attn.gtu.o.bias
        norms[mask] = bias.grad.norm().item()
    assert norms[True] < 1
    assert norms[False] > 1e4 * norms[True]


def test_plugin_under_both_names():
    """fairseq imports the folder as fairseq_plugin, next to tnn.fairseq_plugin."""
    code = ("from argparse import Namespace; from fairseq import utils; "
            f"utils.import_user_module(Namespace(user_dir={str(ROOT / 'tnn/fairseq_plugin')!r})); "
            "import tnn.fairseq_plugin; from fairseq.models import ARCH_MODEL_REGISTRY as known; "
            "assert 'tnn_v2_decay_99_pre' in known")
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True, cwd=ROOT,
                   capture_output=True)


def test_adam_of_all_parameters_at_once_is_fairseqs():
    """What the plugin does on a GPU in place of fairseq's loop: the same bits."""
    from fairseq.optim.adam import Adam

    from tnn.fairseq_plugin import optimizer as at_once
    torch.manual_seed(4)
    loop = [torch.nn.Parameter(torch.randn(size)) for size in ((3, 4), (5,), (2, 2))]
    whole = [torch.nn.Parameter(p.detach().clone()) for p in loop]
    options = {"lr": 0.01, "betas": (0.9, 0.98), "weight_decay": 0.2, "eps": 1e-6}
    one, two = Adam(loop, **options), Adam(whole, **options)
    states = [{"exp_avg": torch.zeros_like(p), "exp_avg_sq": torch.zeros_like(p)} for p in whole]
    for count in (1, 2, 3):
        for p, q in zip(loop, whole, strict=True):
            p.grad = torch.randn_like(p)
            q.grad = p.grad.clone()
        one.step()  # on a CPU fairseq's own
        with torch.no_grad():
            at_once.at_once(whole, states, two.param_groups[0], count)
    for p, q in zip(loop, whole, strict=True):
        torch.testing.assert_close(q, p, rtol=0, atol=1e-9)
