"""Theorem 1: a truncated LSTM is a TrellisNet whose weights are mostly zero (section 4).

    python theorem1.py --layers 3 --hidden 20 --window 12 --steps 40

builds the TrellisNet of a random nn.LSTM, runs both on random input and prints how far they are
apart. A truncated LSTM (window M) computes the output at time t from the inputs t-M+1 ... t alone.

The construction. Level l holds, at position t, all layers' states after the inputs of a window
that ends at t and grows by one with each level. Layer s takes its own state from the past tap and
the layer below from the present tap, both one level down:

    h^s_l(t) = LSTM_s(h^{s-1}_{l-1}(t), h^s_{l-1}(t-1))            h^0_l(t) = x(t)

so W1 has only the present tap and layer 1's rows, W2's past tap is block diagonal, and its present
tap has the blocks from layer s-1 to layer s. As layer s lags s-1 levels behind layer 1, a window of
M needs M+S-1 levels. One thing is needed that the proof passes over: a layer must stay at zero
until the layer below has begun, although it has biases. A channel per layer serves as the sign that
the layer has begun; the next layer takes its bias from that channel instead of the network's bias.
"""

import argparse
import sys
from pathlib import Path

if __package__ in (None, ""):
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from harness import flags


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    p = flags.parser("Theorem 1 on a random LSTM")
    sizes = {"layers": (2, "of the LSTM"), "hidden": (20, "its hidden size"),
             "inputs": (10, "its input size"), "window": (12, "steps that it is truncated to"),
             "steps": (40, "length of the random input"), "batch": (4, "sequences in it")}
    for name, (default, meaning) in sizes.items():
        p.add_argument(f"--{name}", type=int, default=default, help=meaning)
    p.add_argument("--seed", type=int, default=1111, help="of weights and input")
    args = flags.parse(p, argv)
    flags.check(p, args, positive=sizes)
    return args


if __name__ == "__main__":
    parse_args()  # -h and typing mistakes answer before torch is imported

import torch
from torch import Tensor, nn

from harness.endings import orderly_exit
from trellisnet.trellisnet import TrellisNet, tap_major

TORCH_TO_OURS = (0, 3, 2, 1)  # nn.LSTM's gates are i, f, g, o; ours i, o, g, f
SURE = 60.0  # a gate's input at which sigmoid and tanh are 1 to the last bit


def trellisnet_of(lstm: nn.LSTM, window: int) -> TrellisNet:
    """The TrellisNet that computes what `lstm`, truncated to `window` steps, computes.

    Its output (the last channels) is the LSTM's top layer; `initial_hidden` gives its state.
    Raises ValueError for an LSTM that the theorem is not about, and for a window below 1.
    """
    check(lstm, window)
    layers, size = lstm.num_layers, lstm.hidden_size
    signs = layers - 1 if lstm.bias else 0
    net = TrellisNet(lstm.input_size, signs + layers * size, size, window + layers - 1,
                     wnorm=False).to(lstm.weight_ih_l0)
    own = {name: getattr(lstm, name).detach() for name, _ in lstm.named_parameters()}
    # Channels: the signs, then layer 1 to S. Gate g of channel c is row g * H + c.
    weight1 = torch.zeros(4, net.nhid, lstm.input_size, 2).to(net.bias2)
    weight2 = torch.zeros(4, net.nhid, net.nhid, 2).to(net.bias2)
    bias = torch.zeros(4, net.nhid).to(net.bias2)
    for s in range(layers):
        rows = slice(signs + s * size, signs + (s + 1) * size)
        weight2[:, rows, rows, 0] = by_gate(own[f"weight_hh_l{s}"])
        below = by_gate(own[f"weight_ih_l{s}"])
        if s == 0:
            weight1[:, rows, :, 1] = below
        else:
            weight2[:, rows, signs + (s - 1) * size:signs + s * size, 1] = below
        if lstm.bias:
            total = by_gate(own[f"bias_ih_l{s}"] + own[f"bias_hh_l{s}"])
            if s == 0:
                bias[:, rows] = total
            else:  # through the sign of the layer below, which reads tanh(1) once it has begun
                weight2[:, rows, s - 1, 1] = total / torch.tanh(torch.ones((), dtype=total.dtype))
    for s in range(signs):
        put_sign(weight2, bias, s)
    net.weight1_raw.data = tap_major(weight1.flatten(0, 1))
    net.weight2_raw.data = tap_major(weight2.flatten(0, 1))
    net.bias2.data = bias.flatten()
    return net


def check(lstm: nn.LSTM, window: int) -> None:
    """Raises ValueError for what the theorem does not cover."""
    if lstm.bidirectional or lstm.proj_size or lstm.batch_first or (lstm.dropout and lstm.training):
        raise ValueError("the theorem is about LSTMs of one direction, time first, without "
                         "projection and dropout")
    if window < 1:
        raise ValueError(f"the window must be at least 1 step, not {window}")


def by_gate(parameter: Tensor) -> Tensor:
    """(4 hidden, ...) in nn.LSTM's order of gates -> (4, hidden, ...) in ours."""
    gates = parameter.unflatten(0, (4, -1))
    return torch.stack([gates[n] for n in TORCH_TO_OURS])


def put_sign(weight2: Tensor, bias: Tensor, s: int) -> None:
    """Channel s: 0 until layer s (from 0) has begun, then tanh(1). i = o = 1 and f = 0 always; g is
    0 or 1, as the sign of the layer below is (the first layer has begun at the first level)."""
    i, o, g, f = range(4)
    bias[i, s] = bias[o, s] = SURE
    bias[f, s] = -2 * SURE
    if s == 0:
        bias[g, s] = SURE
    else:
        weight2[g, s, s - 1, 1] = SURE / 0.75  # tanh(1) is 0.76


def initial_hidden(lstm: nn.LSTM, h0: Tensor, c0: Tensor) -> tuple[Tensor, Tensor]:
    """nn.LSTM's h0, c0 (layers, N, hidden) -> the TrellisNet's (N, H). The first `window` outputs
    are then the LSTM's from that state, those from window + layers - 1 on the truncated LSTM's."""
    signs = lstm.num_layers - 1 if lstm.bias else 0
    return tuple(torch.cat([part.new_zeros(part.shape[1], signs), *part], -1) for part in (h0, c0))


def truncated_lstm(lstm: nn.LSTM, x: Tensor, window: int) -> Tensor:
    """Top layer's output at each t from the inputs t-window+1 ... t alone: (L, N, E) ->
    (L, N, hidden). Raises like `trellisnet_of`."""
    check(lstm, window)
    return torch.stack([lstm(x[max(0, t + 1 - window):t + 1])[0][-1] for t in range(len(x))])


def compare(args: argparse.Namespace) -> None:
    """Prints how far the TrellisNet's outputs are from those of the truncated LSTM."""
    torch.manual_seed(args.seed)
    lstm = nn.LSTM(args.inputs, args.hidden, args.layers)
    net = trellisnet_of(lstm, args.window)
    x = torch.randn(args.steps, args.batch, args.inputs)
    with torch.no_grad():
        expected, (output, _, _) = truncated_lstm(lstm, x, args.window), net(x)
    weights = net.weight1_raw.numel() + net.weight2_raw.numel()
    used = int((net.weight1_raw != 0).sum() + (net.weight2_raw != 0).sum())
    print(f"LSTM: {args.layers} layers of {args.hidden}, truncated to {args.window} steps\n"
          f"TrellisNet: {net.nlevels} levels, {net.nhid} channels, "
          f"{used} of {weights} weights are not zero\n"
          f"largest difference of the outputs: {(expected - output).abs().max().item():.1e}")


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    with orderly_exit("theorem1.py"):
        compare(args)


if __name__ == "__main__":
    main()
