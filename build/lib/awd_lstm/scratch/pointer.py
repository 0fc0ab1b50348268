"""The continuous cache (the paper's "Pointer models"; Grave, Joulin, Usunier 2016, 1612.04426).

Nothing is trained. A text repeats itself: where the hidden state was like the present one, the word
that followed then is likely to follow now.
"""

import torch
from torch import Tensor, nn

from awd_lstm.scratch.data import get_batch
from awd_lstm.scratch.model import AWD_LSTM

BLOCK = 256  # positions whose vocabulary is scored at a time


def cache_probability(states: Tensor, words: Tensor, t: int, window: int, theta: float) -> Tensor:
    """p_cache(words[t]) = sum of softmax_j(theta h_j . h_t) over those j in t-window ... t-1 with
    words[j] = words[t]. states (N, E); words[j] (N,) is the word that followed state j."""
    past = slice(max(0, t - window), t)
    weight = torch.softmax(theta * states[past] @ states[t], dim=0)           # (window,)
    return weight[words[past] == words[t]].sum()


@torch.no_grad()
def pointer_loss(model: AWD_LSTM, criterion: nn.Module, data: Tensor, window: int, theta: float,
                 lambdasm: float, bptt: int, autocast) -> float:
    """Mean of -log(lambda p_cache + (1-lambda) p_vocabulary) over a text, data (rows, 1)."""
    model.eval()
    hidden, states = model.init_hiddens(1), []
    for i in range(0, len(data) - 1, bptt):
        x, _, _ = get_batch(data, i, bptt)
        with autocast():
            _, output_nodrop, hidden = model(x, hidden)
        states.append(output_nodrop[:, 0])
    states, words = torch.cat(states), data[1:, 0].long()                     # (N, E), (N,)
    decoder = model.decoder
    p_vocabulary = torch.cat([
        criterion.logprob(decoder.weight, decoder.bias, h).gather(1, w[:, None])[:, 0]
        for h, w in zip(states.split(BLOCK), words.split(BLOCK), strict=True)]).exp()
    p_cache = torch.stack([cache_probability(states, words, t, window, theta)
                           for t in range(len(words))])
    p = lambdasm * p_cache + (1 - lambdasm) * p_vocabulary
    p[0] = p_vocabulary[0]  # nothing has been seen
    return -p.double().log().mean().item()
