"""A causal Toeplitz operator as a recurrence: constant time and memory for each further position.

Two memories of the past:

Window keeps the last K inputs: exact to the coefficients beyond K, which decay makes vanish; of an
operator whose coefficients do not vanish it serves `longest` positions. StateSpace is the exact
conversion to a diagonal state space, ETSC (Qin and Zhong 2023, arXiv 2311.08756): exact for N
positions whatever the decay, and wrong after them.

To read all K inputs, or all states, at every position would cost more memory traffic than the rest
of the model. So both look back once in BLOCK positions, by one Fourier transform that says what the
past adds to the whole block; within the block an output sums over the few inputs since its
beginning:

    y_i = [what the inputs before the block add to i] + sum of t(i - j) x_j over j in the block

A memory belongs to one sequence being generated; calling it with the next positions v (b, n, c)
returns Tno's outputs for them.

Notation: b batch, n positions at once, c channels (the heads' side by side), K lags kept, P length
of a block, N length for which the state space is exact, m = N + 1, S = m // 2 states.
"""

import math

import torch
from torch import Tensor

from tnn.network.tno import Tno
from tnn.network.toeplitz import HALF, fft_length, toeplitz_product

BLOCK = 128  # one look back costs about as much as the sums of so many positions


def lags_needed(tno: Tno, longest: int) -> int:
    """Number of lags until decay has made the coefficients vanish, at most `longest`."""
    return int(min(tno.reach(torch.float32), longest))


class _Memory:
    """Blocks and the sums within them. A subclass keeps what lies before the block.

    t (K, c): the coefficients. longest: for so many positions. ValueError when more are asked for.
    """

    def __init__(self, t: Tensor, longest: float):
        self.t, self.longest = t, longest
        self.P = min(BLOCK, len(t))
        self.turned = t[:self.P].flip(0).contiguous()  # t(P-1) .. t(0): (P, c)
        self.block: Tensor | None = None   # inputs since the block's beginning (b, P, c)
        self.before: Tensor | None = None  # what those before it add to its outputs (b, P, c)
        self.filled = self.position = 0

    def look_back(self) -> Tensor:
        """What the inputs read so far add to the next P outputs: (b, c, P)."""
        raise NotImplementedError

    def take_in(self, v: Tensor) -> None:
        """The next inputs (b, c, n): the first ones, of any number, then blocks of P."""
        raise NotImplementedError

    def reorder(self, order: Tensor) -> None:
        """Keeps the sequences `order` (b,) of the batch, for beam search."""
        self.block = self.block.index_select(0, order)
        self.before = None if self.before is None else self.before.index_select(0, order)

    def __call__(self, v: Tensor) -> Tensor:
        if self.position + v.shape[1] > self.longest:
            raise ValueError(f"{type(self).__name__}: made for {self.longest} positions, not for "
                             f"{self.position + v.shape[1]}")
        if self.block is not None:
            return torch.cat([self._step(v[:, i]) for i in range(v.shape[1])], dim=1)
        n, K = v.shape[1], len(self.t)
        self.take_in(v.mT)
        self.block = v.new_zeros(len(v), self.P, v.shape[-1])
        self.filled, self.position = self.P, n  # the next position begins a block
        t = torch.nn.functional.pad(self.t, (0, 0, 0, n - K)) if n > K else self.t[:n]
        return toeplitz_product(v, t)

    def _step(self, v):
        """v (b, c) -> (b, 1, c)"""
        if self.filled == self.P:
            if self.before is not None:  # else the last inputs were the prompt's
                self.take_in(self.block.mT)
            self.before, self.filled = self.look_back().mT.to(v.dtype).contiguous(), 0
        self.block[:, self.filled] = v
        self.filled += 1
        self.position += 1
        # Rows of c numbers, one a lag, take a third of the time of einsum's product per channel.
        weights = self.turned[self.P - self.filled:].to(v.dtype)
        y = (self.block[:, :self.filled] * weights).sum(1, keepdim=True)
        return y.add_(self.before[:, self.filled - 1:self.filled])


class Window(_Memory):
    """The last K inputs: y_i = sum_{k < K} t(k) x_{i-k}.

    Raises ValueError unless the operator is causal, with par_type 1, and when more than `longest`
    positions are asked for of an operator whose coefficients do not vanish before.
    """

    def __init__(self, tno: Tno, longest: int):
        _check(tno)
        self.K = lags_needed(tno, longest)
        vanish = tno.reach(torch.float32) <= longest
        super().__init__(_flat(tno.coefficients(self.K)), math.inf if vanish else longest)
        # What wraps around falls on the first K positions, which nobody reads.
        self.size = fft_length(self.K + self.P, 1)
        t = self.t.float() if self.t.dtype in HALF else self.t
        self.spectrum = torch.fft.rfft(t.t(), self.size)  # (c, F)
        self.past: Tensor | None = None  # the last K inputs (b, c, K), zeros before the first

    def take_in(self, v):
        if v.shape[-1] < self.K:
            past = v.new_zeros(*v.shape[:2], self.K) if self.past is None else self.past
            v = torch.cat([past[:, :, v.shape[-1]:], v], dim=-1)
        self.past = v[:, :, v.shape[-1] - self.K:].clone()  # the block is written anew

    def look_back(self):
        past = self.past.float() if self.past.dtype in HALF else self.past
        product = torch.fft.rfft(past, self.size).mul_(self.spectrum)
        return torch.fft.irfft(product, self.size)[:, :, self.K:self.K + self.P]

    def reorder(self, order):
        super().reorder(order)
        self.past = self.past.index_select(0, order)


class StateSpace(_Memory):
    """u_i = lambda u_{i-1} + x_i, y_i = Re sum_s b_s u_i[s] with S complex states per channel.

    With r the coefficients without decay, r_N = -sum of the others (the zero frequency vanishes),
    lambda_s = g exp(-2 pi i s / m) and b the Fourier transform of r over m. r is real, so states
    s and m - s are conjugate, and one of the two is kept. All in double precision: rounding of
    lambda is raised to the power of the lag, 4e-5 after 512 positions in single precision.

    The states after several inputs, and several outputs of the same states, are Fourier transforms
    of length m. N may be anything from `longest` on: it is such that these are fast.

    Raises ValueError unless the operator is causal, with par_type 1 and act_type "none", and when
    more than `longest` positions are asked for.
    """

    def __init__(self, tno: Tno, longest: int):
        _check(tno)
        if tno.act_type != "none":
            raise ValueError(f"StateSpace: act_type {tno.act_type} acts on decayed coefficients")
        super().__init__(_flat(tno.coefficients(longest)), longest)
        self.m = m = fft_length(longest + 1, 1)
        r = _flat(tno.undecayed(m - 1)).double().t()  # (c, N)
        r = torch.cat([r, -r.sum(-1, keepdim=True)], dim=-1)  # (c, m)
        self.b = torch.fft.rfft(r).conj()[:, 1:] / m  # (c, S)
        g = tno.decay()
        self.g = (torch.ones_like(r[:, :1]) if g is None else _flat(g).t()).double()  # (c, 1)
        angles = -2 * math.pi * torch.arange(1, m // 2 + 1, device=r.device).double() / m
        self.lambda_P = self.g ** self.P * torch.polar(torch.ones_like(angles), angles * self.P)
        self.damping = self.g ** torch.arange(1, self.P + 1, device=r.device)  # (c, P)
        self.u: Tensor | None = None  # (b, c, S)

    def take_in(self, v):
        """With z_k = g^k v_{n-1-k} the new inputs' part is a Fourier transform, sum_k
        z_k exp(-2 pi i s k / m), of length m since n <= N < m."""
        n = v.shape[-1]
        z = v.flip(-1).double() * self.g ** torch.arange(n, device=v.device)
        new = torch.fft.rfft(z, self.m)[..., 1:]  # (b, c, S)
        self.u = new if self.u is None else self.u.mul_(self.lambda_P).add_(new)

    def look_back(self):
        """y_{i+k} = g^k Re sum_s b_s u_s exp(-2 pi i s k / m), over all s: irfft adds the
        conjugate halves."""
        spectrum = torch.nn.functional.pad((self.b * self.u).conj_physical_(), (1, 0))
        y = torch.fft.irfft(spectrum, self.m, norm="forward")
        return y[..., 1:self.P + 1] * self.damping

    def reorder(self, order):
        super().reorder(order)
        self.u = self.u.index_select(0, order)


MEMORIES = {"window": Window, "etsc": StateSpace}


def _check(tno):
    if not tno.causal:
        raise ValueError("only a causal operator can be computed one position at a time")
    if tno.par_type != 1:
        raise ValueError("par_type 2 and 3 have other coefficients at every length")


def _flat(t):
    """(h, k, d) -> (k, h d), head-major as in the token mixer."""
    return t.transpose(0, 1).flatten(1)
