"""The bidirectional TNN on fairseq's RoBERTa: roberta_tnn_v2_decay_99 and roberta_tnn_decay_99.

Notation: T time, B batch, C channels.
"""

import logging

from fairseq.models import register_model, register_model_architecture
from fairseq.models.roberta import RobertaEncoder, RobertaModel
from fairseq.models.roberta.model import RobertaClassificationHead
from fairseq.models.roberta.model import base_architecture as roberta_architecture
from fairseq.models.transformer import TransformerEncoder
from fairseq.modules.transformer_sentence_encoder import init_bert_params
from fairseq.utils import safe_getattr

from tnn.fairseq_plugin.options import block_options, set_defaults
from tnn.lm.architectures import MASKED_ARCHITECTURES, MASKED_COMMON
from tnn.network.block import TnnBlock
from tnn.network.together import encoders_together

logger = logging.getLogger(__name__)


class EncoderLayer(TnnBlock):
    """TnnBlock called as fairseq's encoder calls its layers. Like the original it lets padding
    reach the other positions, unless --mask-padding is given."""

    def __init__(self, mask_padding: bool = False, **block):
        super().__init__(**block)
        self.mask_padding = mask_padding

    def forward(self, x, encoder_padding_mask=None):
        """x (T, B, C), mask (B, T) -> (T, B, C)."""
        padding = encoder_padding_mask if self.mask_padding else None
        return super().forward(x.transpose(0, 1), padding).transpose(0, 1)

    def upgrade_state_dict_named(self, state_dict, name):
        """fairseq's encoder calls this when it loads a checkpoint; no key needs renaming."""


class TnnTransformerEncoder(TransformerEncoder):
    """fairseq's encoder with TNN layers."""

    def build_encoder_layer(self, args):
        return EncoderLayer(safe_getattr(self.args, "mask_padding", False),
                            **block_options(self.args, "encoder"))

    def forward_scriptable(self, src_tokens, *rest, **more):
        """fairseq's, with the position encoders of all layers computed as one where that pays."""
        operators = [layer.self_attn.gtu.toep for layer in self.layers]
        with encoders_together(operators, src_tokens.shape[1]):
            return super().forward_scriptable(src_tokens, *rest, **more)


class TnnEncoder(RobertaEncoder):
    """fairseq's RoBERTa encoder with TNN layers."""

    def build_encoder(self, args, dictionary, embed_tokens):
        encoder = TnnTransformerEncoder(args, dictionary, embed_tokens)
        encoder.apply(init_bert_params)
        return encoder


class MeanClassificationHead(RobertaClassificationHead):
    """RoBERTa's head on the mean over all positions in place of the first token."""

    def forward(self, features, padding=None, **ignored):
        """features (B, T, C), padding (B, T) or None -> (B, classes). Padding counts in the mean,
        as in the original, unless it is given."""
        if padding is None:
            mean = features.mean(dim=1, keepdim=True)
        else:
            kept = (~padding).unsqueeze(-1).to(features.dtype)
            mean = (features * kept).sum(dim=1, keepdim=True) / kept.sum(dim=1, keepdim=True)
        return super().forward(mean)  # which takes position 0


@register_model("roberta_tnn_v2")
class RobertaTnn(RobertaModel):
    """Masked language model, and classifier, of published (version 2) blocks."""

    @staticmethod
    def add_args(parser):
        RobertaModel.add_args(parser)
        add_layer_args(parser)

    @classmethod
    def build_model(cls, args, task):
        roberta_architecture(args)
        if safe_getattr(args, "max_positions") is None:
            if safe_getattr(args, "tokens_per_sample") is None:
                args.tokens_per_sample = task.max_positions()
            args.max_positions = args.tokens_per_sample
        return cls(args, TnnEncoder(args, task.source_dictionary))

    def forward(self, src_tokens, features_only=False, return_all_hiddens=False,
                classification_head_name=None, **kwargs):
        """Tokens (B, T) -> (logits or features, extra), as RobertaModel."""
        head = classification_head_name
        x, extra = self.encoder(src_tokens, features_only or head is not None, return_all_hiddens,
                                **kwargs)
        if head is None:
            return x, extra
        masked = safe_getattr(self.args, "mask_padding", False)
        padding = src_tokens.eq(self.encoder.dictionary.pad()) if masked else None
        return self.classification_heads[head](x, padding), extra

    def register_classification_head(self, name, num_classes=None, inner_dim=None, **kwargs):
        """A head under that name, in place of one that has it; fairseq calls this when it loads a
        checkpoint. Parameters and draws are RobertaModel's, whose method has its class built in."""
        args, width = self.args, self.args.encoder_embed_dim
        if name in self.classification_heads:
            old = self.classification_heads[name]
            sizes = old.out_proj.out_features, old.dense.out_features
            if sizes != (num_classes, inner_dim):
                logger.warning("re-registering head %r with num_classes %s and inner_dim %s (prev: "
                               "%s, %s)", name, num_classes, inner_dim, *sizes)
        self.classification_heads[name] = MeanClassificationHead(
            input_dim=width, inner_dim=inner_dim or width, num_classes=num_classes,
            activation_fn=args.pooler_activation_fn, pooler_dropout=args.pooler_dropout,
            q_noise=args.quant_noise_pq, qn_block_size=args.quant_noise_pq_block_size,
            do_spectral_norm=args.spectral_norm_classification_head)


@register_model("roberta_tnn")
class RobertaTnnV1(RobertaTnn):
    """The same of first-generation blocks."""


def add_layer_args(parser) -> None:
    """Options of the layers, and ours."""
    parser.add_argument("--gamma", type=float, help="decay of the Toeplitz coefficients")
    parser.add_argument("--rpe-embedding", type=int, help="width of the position encoder")
    parser.add_argument("--rpe-layers", type=int, help="depth of the position encoder")
    parser.add_argument("--glu-dim", type=int, help="hidden width of the channel mixer")
    parser.add_argument("--norm-type", help="norm in layers and position encoder")
    parser.add_argument("--mask-padding", action="store_true", default=False,
                        help="keep padding out of the other positions and of the classifier's "
                             "mean; the original does not, and its first gradients are of 1e9. "
                             "Recommended for new runs")


def set_architecture(args, changes: dict) -> None:
    """Fills in what neither the command line nor a checkpoint says."""
    set_defaults(args, MASKED_COMMON | changes)
    set_defaults(args, {"glu_dim": args.encoder_embed_dim})
    roberta_architecture(args)


def _register(model, arch, changes):
    register_model_architecture(model, arch)(lambda args: set_architecture(args, changes))


for _model, _table in MASKED_ARCHITECTURES.items():
    for _arch, _changes in _table.items():
        _register(_model, _arch, _changes)
