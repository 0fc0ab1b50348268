"""The AWD-LSTM, every part written out. Read it beside the paper:

Merity, Keskar, Socher 2017, "Regularizing and Optimizing LSTM Language Models", arXiv 1708.02182.

Notation: T time steps, B batch, V vocabulary, E size of the word vectors, H hidden size,
`in` and `out` the sizes of one layer (E -> H, H -> H, H -> E).

Each deviation of the published from-scratch code is a switch of AWD_LSTM that is off by default.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.splitcross import SplitCrossEntropyLoss
from kernels.product import Linear  # torch.nn's, by the faster library on a CPU
from kernels.reused import Reused

Hidden = tuple[list[Tensor], list[Tensor]]  # (h of every layer, c of every layer), each (B, out)


class LSTMCell(nn.Module):
    """One time step of an LSTM: the six equations at the beginning of section 2.

    The four matrices W of the paper are stacked in `i2h`, the four U in `h2h`, in its order i, f,
    o, c~ (torch.nn.LSTM stacks i, f, c~, o).
    """

    def __init__(self, input_size: int, output_size: int, bias: bool = True):
        super().__init__()
        self.i2h = Linear(input_size, 4 * output_size, bias)
        self.h2h = nn.Linear(output_size, 4 * output_size, bias)
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -output_size**-0.5, output_size**-0.5)

    def forward(self, x: Tensor, h: Tensor, c: Tensor, U: Tensor | None = None):
        """x (B, in), h and c (B, out) -> the next h and c. U: in place of h2h.weight."""
        return self.step(self.i2h(x), h, c, Reused(self.h2h.weight if U is None else U))

    def step(self, Wx: Tensor, h: Tensor, c: Tensor, U: Reused):
        """The same after the product with the input, Wx (B, 4*out). U: a matrix that has been
        prepared for the products of many time steps."""
        Uh = U(h, self.h2h.bias)                                              # (B, 4*out)
        i, f, o, c_new = (Wx + Uh).chunk(4, dim=1)                            # (B, out) each
        c = torch.sigmoid(i) * torch.tanh(c_new) + torch.sigmoid(f) * c
        h = torch.sigmoid(o) * torch.tanh(c)
        return h, c


def dropout_mask(shape: tuple, p: float, like: Tensor) -> Tensor:
    """Zero with probability p, else 1/(1-p), so that the mean stays what it was."""
    return like.new_empty(shape).bernoulli_(1 - p).div_(1 - p)


class WeightDropout(nn.Module):
    """DropConnect on the recurrent matrices U of a cell (section 2): single weights are dropped,
    not units, so the same connection stays cut for a whole pass through the text.
    """

    def __init__(self, cell: LSTMCell, p: float):
        super().__init__()
        self.cell, self.p = cell, p

    def forward(self) -> Tensor:
        """U with about p of its entries zero: (4*out, out). The gradient reaches the kept ones."""
        U = self.cell.h2h.weight
        if not self.training or self.p == 0:
            return U
        return U * self.draw_mask(U)

    def draw_mask(self, U: Tensor) -> Tensor:
        return dropout_mask(U.shape, self.p, U)


class VariationalDropout(nn.Module):
    """One mask for all time steps, another for every column of the batch (section 4.2; Gal and
    Ghahramani 2016). The mask is drawn at time step 0 and used until the next time step 0.
    """

    def __init__(self, p: float):
        super().__init__()
        self.p = p
        self.mask: Tensor | None = None

    def forward(self, x: Tensor, timestep: int) -> Tensor:
        """x (B, n) -> (B, n). With all time steps at once, (T, B, n), give timestep 0."""
        if not self.training or self.p == 0:
            return x
        if timestep == 0:
            self.mask = dropout_mask(x.shape[-2:], self.p, x)                 # (B, n)
        return x * self.mask


class AWD_LSTM(nn.Module):
    """Word vectors, LSTM layers, decoder, with the paper's five dropouts and two regularisers.

    Args:
        ntokens, embedding_size, hidden_size, nlayers: V, E, H and how many layers.
        bias: do the cells have biases.
        dropout_wts, dropout_emb, dropout_inp, dropout_hid, dropout_out: on the recurrent weights
            (2), on whole words (4.3), on the input, between the layers and on the output (4.2).
        tied: the decoder's matrix is the word vectors' (4.4).
        hoist: take the products with the inputs out of the loop over time (same numbers, faster).

    Switches, each the way of the published from-scratch code:
        normal_init: word vectors from N(0, 1); decoder, with bias, uniform(+-1/sqrt(E)).
        mask_per_step: weight dropout draws anew at every time step.
        shared_masks: one VariationalDropout serves all places between the layers. It draws for
            each of them at time step 0, and keeps the last mask for all later steps.
        pad_last_word: the last word's vector gets no gradient from the input side.
        detach_regularisers: AR and TAR are added to the loss as constants, without gradient.
        norm_regularisers: AR and TAR as the paper writes them, with L2 norms; the authors' code,
            and the published numbers, have mean squares.
    """

    def __init__(self, ntokens: int, embedding_size: int, hidden_size: int, nlayers: int = 3,
                 bias: bool = True, dropout_wts: float = 0.5, dropout_emb: float = 0.1,
                 dropout_inp: float = 0.4, dropout_hid: float = 0.25, dropout_out: float = 0.4,
                 tied: bool = True, hoist: bool = False, normal_init: bool = False,
                 mask_per_step: bool = False, shared_masks: bool = False,
                 pad_last_word: bool = False, detach_regularisers: bool = False,
                 norm_regularisers: bool = False):
        super().__init__()
        self.config = {k: v for k, v in locals().items() if k not in ("self", "__class__")}
        self.dropout_emb, self.hoist, self.mask_per_step = dropout_emb, hoist, mask_per_step
        self.padding = -1 if pad_last_word else None
        self.detach, self.norm = detach_regularisers, norm_regularisers
        # E and H may differ (4.5); the last layer has size E, so that the decoder can be tied.
        self.sizes = [hidden_size] * (nlayers - 1) + [embedding_size]
        inputs = [embedding_size, *self.sizes[:-1]]

        self.embedding = nn.Embedding(ntokens, embedding_size)
        self.layers = nn.ModuleList(
            WeightDropout(LSTMCell(size_in, size_out, bias), dropout_wts)
            for size_in, size_out in zip(inputs, self.sizes, strict=True))
        self.decoder = Linear(embedding_size, ntokens)
        self.drop_inp = VariationalDropout(dropout_inp)
        between = [VariationalDropout(dropout_hid) for _ in self.sizes[1:]]
        if shared_masks:
            between = [between[0] for _ in between]
        self.drops = nn.ModuleList([*between, VariationalDropout(dropout_out)])  # after each layer
        if tied:
            self.decoder.weight = self.embedding.weight
        if not normal_init:
            self.init_weights()

    def init_weights(self) -> None:
        """Small word vectors. torch's own, from N(0, 1), are what made tying fail: as rows of the
        decoder they give enormous logits."""
        nn.init.uniform_(self.embedding.weight, -0.1, 0.1)
        nn.init.uniform_(self.decoder.weight, -0.1, 0.1)
        nn.init.zeros_(self.decoder.bias)

    def init_hiddens(self, batch_size: int) -> Hidden:
        """h and c of every layer, all zero: the state before the first word of a text."""
        new = self.embedding.weight.new_zeros
        return [new(batch_size, n) for n in self.sizes], [new(batch_size, n) for n in self.sizes]

    def embedding_dropout(self, words: Tensor) -> Tensor:
        """Vectors of the words, (T, B) -> (T, B, E). Whole words are dropped (section 4.3): all
        occurrences of a dropped word vanish, the others are scaled."""
        vectors = self.embedding.weight                                       # (V, E)
        if self.training and self.dropout_emb > 0:
            vectors = vectors * dropout_mask((len(vectors), 1), self.dropout_emb, vectors)
        return F.embedding(words, vectors, self.padding)

    def forward(self, words: Tensor, hidden: Hidden) -> tuple[Tensor, Tensor, Hidden]:
        """words (T, B) and the state before them -> the last layer's output with and without
        dropout, (T, B, E) each, and the state after them. Logits are decoder(output). Raises
        ValueError for no time step.
        """
        if words.shape[0] == 0:
            raise ValueError(f"AWD_LSTM takes words (T, B), T at least 1, not {tuple(words.shape)}")
        x = self.embedding_dropout(words)                                     # (T, B, E)
        if self.hoist and not self.mask_per_step:
            return self.forward_hoisted(x, hidden)
        h, c = list(hidden[0]), list(hidden[1])
        U: dict[int, Reused] = {}
        output, output_nodrop = [], []
        for t, x_t in enumerate(x):                                           # x_t (B, E)
            z = self.drop_inp(x_t, t)
            for k, layer in enumerate(self.layers):
                if t == 0 or self.mask_per_step:
                    U[k] = Reused(layer())
                Wx = layer.cell.i2h(z)                                        # (B, 4*out)
                h[k], c[k] = layer.cell.step(Wx, h[k], c[k], U[k])            # (B, out) each
                z = self.drops[k](h[k], t)
            output.append(z)
            output_nodrop.append(h[-1])
        return torch.stack(output), torch.stack(output_nodrop), (h, c)

    def forward_hoisted(self, x: Tensor, hidden: Hidden) -> tuple[Tensor, Tensor, Hidden]:
        """OPTION `hoist`, the same numbers and the same masks: layer by layer, so that Wx of all
        time steps is one product per layer and only Uh is left in the loop."""
        h, c = list(hidden[0]), list(hidden[1])
        x = self.drop_inp(x, 0)
        for k, layer in enumerate(self.layers):
            U, steps = Reused(layer()), []
            for Wx_t in layer.cell.i2h(x):                                    # (B, 4*out)
                h[k], c[k] = layer.cell.step(Wx_t, h[k], c[k], U)
                steps.append(h[k])
            raw = torch.stack(steps)                                          # (T, B, out)
            x = self.drops[k](raw, 0)
        return x, raw, (h, c)

    def activation_reg(self, output: Tensor, alpha: float) -> Tensor:
        """AR (section 4.6): alpha L2(m * h_t), small outputs. output (T, B, E), dropped."""
        return alpha * self.size_of(output)

    def temporal_activation_reg(self, output_nodrop: Tensor, beta: float) -> Tensor:
        """TAR (section 4.6): beta L2(h_t - h_t+1), slow outputs. output_nodrop (T, B, E)."""
        if len(output_nodrop) < 2:  # one time step has no slowness
            return output_nodrop.new_zeros(())
        return beta * self.size_of(output_nodrop[:-1] - output_nodrop[1:])

    def size_of(self, x: Tensor) -> Tensor:
        """How large the vectors of x (T, B, E) are: their mean square per entry, as in the authors'
        code, or their mean L2 norm, as the paper writes it."""
        if self.detach:
            x = x.detach()
        return x.norm(dim=-1).mean() if self.norm else x.pow(2).mean()


class TrainingLoss(nn.Module):
    """What is minimised: cross entropy + AR + TAR. criterion: the split softmax, or None for
    torch's cross entropy (the same up to 75,000 words)."""

    def __init__(self, model: AWD_LSTM, criterion: SplitCrossEntropyLoss | None, alpha: float,
                 beta: float):
        super().__init__()
        self.model, self.criterion, self.alpha, self.beta = model, criterion, alpha, beta

    def forward(self, x: Tensor, y: Tensor, hidden: Hidden) -> tuple[Tensor, Tensor, Hidden]:
        """x, y (T, B) -> the loss, cross entropy alone, the state after x."""
        output, output_nodrop, hidden = self.model(x, hidden)
        ce = self.cross_entropy(output, y)
        ar = self.model.activation_reg(output, self.alpha)
        tar = self.model.temporal_activation_reg(output_nodrop, self.beta)
        return ce + ar + tar, ce, hidden

    def cross_entropy(self, output: Tensor, y: Tensor) -> Tensor:
        """Mean -log p(y) over the chunk: output (T, B, E), y (T, B)."""
        decoder = self.model.decoder
        if self.criterion is None:
            return F.cross_entropy(decoder(output).flatten(0, 1), y.flatten())
        return self.criterion(decoder.weight, decoder.bias, output, y)
