"""The autoregressive TNN on fairseq's transformer decoder: tnn_v2_decay_99_pre and its relatives.

Notation: T time, B batch, C channels.
"""

from fairseq import options as fairseq_options
from fairseq.models import register_model, register_model_architecture
from fairseq.models.transformer import TransformerDecoder
from fairseq.models.transformer_lm import TransformerLanguageModel, base_lm_architecture
from fairseq.modules import AdaptiveInput
from fairseq.modules.checkpoint_activations import checkpoint_wrapper
from fairseq.utils import safe_getattr

from kernels.log_softmax import log_softmax_
from tnn.fairseq_plugin.options import TnnLanguageModelConfig, block_options, set_defaults
from tnn.lm.architectures import ARCHITECTURES, COMMON
from tnn.network.block import TnnBlock
from tnn.network.recurrence import Window
from tnn.network.together import encoders_together


class DecoderLayer(TnnBlock):
    """TnnBlock called as fairseq's decoder calls its layers. Masks are accepted and ignored:
    causality lies in the coefficients, and padding stands to the right. `longest` bounds the
    sequences that are generated."""

    def __init__(self, longest: int = 1024, **block):
        super().__init__(**block)
        self.longest = longest

    def forward(self, x, encoder_out=None, encoder_padding_mask=None, incremental_state=None,
                **ignored):
        """x (T, B, C) -> (T, B, C), no attention weights, no state. With incremental_state x is
        the positions that follow those of the calls before."""
        memory = None
        if incremental_state is not None:
            memory = incremental_state.get(self._key)
            if memory is None:
                memory = Window(self.self_attn.gtu.toep, self.longest)
                incremental_state[self._key] = memory
        return self.batch_first(x.transpose(0, 1), memory).transpose(0, 1), None, None

    def batch_first(self, x, memory=None):
        """TnnBlock's own call: x (B, T, C) -> (B, T, C); memory (recurrence.py) continues a
        sequence whose earlier positions it has seen."""
        return super().forward(x, memory=memory)

    def reorder_incremental_state(self, incremental_state, new_order):
        """Beam search keeps these sequences; fairseq calls it on every module that has it."""
        if self._key in incremental_state:
            incremental_state[self._key].reorder(new_order)

    @property
    def _key(self):
        return f"tnn.{id(self)}"


class TnnDecoder(TransformerDecoder):
    """fairseq's decoder with TNN layers."""

    def build_decoder_layer(self, args, no_encoder_attn=False):
        layer = DecoderLayer(safe_getattr(self.args, "max_target_positions", 1024),
                             **block_options(self.args, "decoder"))
        if safe_getattr(self.args, "checkpoint_activations", False):
            layer = checkpoint_wrapper(
                layer, offload_to_cpu=safe_getattr(self.args, "offload_activations", False))
        return layer

    def extract_features_scriptable(self, prev_output_tokens, encoder_out=None,
                                    incremental_state=None, *rest):
        """fairseq's, with the position encoders of all layers computed as one where that pays."""
        alone = incremental_state is not None
        operators = [] if alone else [layer.self_attn.gtu.toep for layer in self.layers]
        with encoders_together(operators, prev_output_tokens.shape[1]):
            return super().extract_features_scriptable(prev_output_tokens, encoder_out,
                                                       incremental_state, *rest)

    def get_normalized_probs_scriptable(self, net_output, log_probs, sample=None):
        """fairseq's. In training the scores of the vocabulary, which are most of an update's
        memory, become their own log probabilities."""
        logits = net_output[0]
        if (log_probs and logits.requires_grad and not logits.is_leaf
                and self.adaptive_softmax is None and not self.onnx_trace):
            return log_softmax_(logits)
        return super().get_normalized_probs_scriptable(net_output, log_probs, sample)

    def buffered_future_mask(self, tensor):
        """None: a T x T mask would only be ignored (0.8 GB at T = 14336)."""


@register_model("tnn_v2_lm", dataclass=TnnLanguageModelConfig)
class TnnLanguageModel(TransformerLanguageModel):
    """Decoder of published (version 2) blocks."""

    @classmethod
    def build_model(cls, args, task):
        if safe_getattr(args, "rpe_embedding") is None:
            raise ValueError("--arch: name an architecture, such as tnn_v2_decay_99_pre, not the "
                             "model tnn_lm or tnn_v2_lm")
        if safe_getattr(args, "max_target_positions") is None:
            args.max_target_positions = safe_getattr(args, "tokens_per_sample", 1024)
        embed_tokens = cls._input_embedding(args, task.source_dictionary)
        return cls(TnnDecoder(args, task.target_dictionary, embed_tokens, no_encoder_attn=True))

    @classmethod
    def _input_embedding(cls, args, dictionary):
        if not args.adaptive_input:
            return cls.build_embedding(args, dictionary, args.decoder_input_dim)
        if args.tie_adaptive_weights and (
                args.adaptive_input_factor != args.adaptive_softmax_factor
                or args.adaptive_input_cutoff != args.adaptive_softmax_cutoff
                or args.decoder_input_dim != args.decoder_output_dim):
            raise ValueError("--tie-adaptive-weights needs the same factor, cutoff and width for "
                             "the adaptive input and the adaptive softmax")
        return AdaptiveInput(len(dictionary), dictionary.pad(), args.decoder_input_dim,
                             args.adaptive_input_factor, args.decoder_embed_dim,
                             fairseq_options.eval_str_list(args.adaptive_input_cutoff, type=int))


@register_model("tnn_lm", dataclass=TnnLanguageModelConfig)
class TnnLanguageModelV1(TnnLanguageModel):
    """Decoder of first-generation blocks, whose token mixer norms and adds its input once more."""


def set_architecture(args, changes: dict) -> None:
    """Fills in what neither the command line nor a checkpoint says. The original overwrites the
    command line's layers, heads and norm position; here they are heard."""
    changes = dict(changes)
    glu = changes.pop("glu", 1)
    set_defaults(args, COMMON | changes)
    set_defaults(args, {"glu_dim": int(glu * args.decoder_embed_dim),
                        "decoder_input_dim": args.decoder_embed_dim,
                        "decoder_output_dim": args.decoder_embed_dim})
    args.no_token_positional_embeddings = True
    pre_norm = args.decoder_normalize_before
    base_lm_architecture(args)  # sets decoder_normalize_before whatever it was
    args.decoder_normalize_before = pre_norm


def _register(model, arch, changes):
    register_model_architecture(model, arch)(lambda args: set_architecture(args, changes))


for _model, _table in ARCHITECTURES.items():
    for _arch, _changes in _table.items():
        _register(_model, _arch, _changes)
