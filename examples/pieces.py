"""Layers of the papers in a model of one's own, with torch alone: python examples/pieces.py"""

import torch
from torch import nn

from awd_lstm import QRNN
from common import ASGD, LockedDropout, SplitCrossEntropyLoss, WeightDrop, embedded_dropout
from sparse_seq import SparseLSTM
from tnn import TnnLayer
from trellisnet import TrellisNet

T, B, E, V = 20, 8, 32, 500  # time steps, batch, width, vocabulary
tnn = TnnLayer(E, num_heads=1, rpe_embedding=32, glu_dim=E, causal=True)  # batch first
LAYERS = {  # (T, B, E) -> (T, B, E), some with states behind it
    "LSTM, weights dropped": WeightDrop(nn.LSTM(E, E), ["weight_hh_l0"], 0.2),
    "QRNN": QRNN(E, E, num_layers=2, window=2),
    "SparseLSTM": SparseLSTM(E, E, blocks=4, density=0.5),
    "TrellisNet": TrellisNet(E, 48, E, nlevels=5),
    "TNN": lambda x: tnn(x.transpose(0, 1)).transpose(0, 1),
}


def train(layer, words, targets, steps=40):
    """A language model of embedding, layer and split softmax with tied weights; its last loss."""
    own = layer if isinstance(layer, nn.Module) else tnn
    embedding, bias = nn.Embedding(V, E), nn.Parameter(torch.zeros(V))
    locked, loss_of = LockedDropout(), SplitCrossEntropyLoss(E, splits=[100, 300])
    modules = nn.ModuleList([own, embedding, loss_of])
    optimizer = ASGD([*modules.parameters(), bias], lr=2.0)
    for _ in range(steps):
        output = layer(locked(embedded_dropout(embedding, words, dropout=0.05), 0.1))
        y = output[0] if isinstance(output, tuple) else output
        loss = loss_of(embedding.weight, bias, y, targets)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(modules.parameters(), 0.25)
        optimizer.step()
    return loss.item()


if __name__ == "__main__":
    text = (torch.arange(T + 1)[:, None] * 7 + torch.arange(B)) % 40  # each word 7 after the last
    for name, layer in LAYERS.items():
        torch.manual_seed(0)
        print(f"{name:22} loss {train(layer, text[:-1], text[1:]):.2f}")
