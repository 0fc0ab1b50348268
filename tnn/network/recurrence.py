"""A causal Toeplitz operator as a recurrence: constant time and memory for each further position.

Two memories of the past:

Window keeps the last K inputs: exact to the coefficients beyond K, which decay makes vanish; of an
operator whose coefficients do not vanish it serves `longest` positions. StateSpace is the exact
conversion to a diagonal state space, ETSC (Qin and Zhong 2023, arXiv 2311.08756): exact for N
positions whatever the decay, and wrong after them.

To read all K inputs, or all states, at every position would cost more memory traffic than the rest
of the model. So what the past adds to later outputs is computed for many outputs at once, by
Fourier transforms, the farther back the rarer:

    y_i = [inputs before the last multiple of Q: what a memory keeps, once in Q positions]
        + [of those since: blocks of B = P, 2 P, 4 P .. Q / 2 inputs, each once]
        + [the sum of t(i - j) x_j over the inputs j since the last multiple of P]

Position i, counted from the last multiple of Q, a multiple of P: with B the largest P 2^s that
divides it, the B inputs before i are added to the B outputs from i on. Each pair of positions meets
in exactly one of these (semi-relaxed multiplication of power series), and one costs two transforms
of length 2 B, every 2 B positions.

A memory belongs to one sequence being generated; calling it with the next positions v (b, n, c)
returns Tno's outputs for them.

Notation: b batch, n positions at once, c channels (the heads' side by side), K lags kept, P and Q
lengths of the inner and outer blocks, N length for which the state space is exact, m = N + 1,
S = m // 2.
"""

import math

import torch
from torch import Tensor

from tnn.network.activations import activation, identity
from tnn.network.tno import Tno
from tnn.network.toeplitz import HALF, fft_length, toeplitz_product
from tnn.network.toeplitz_cpu import CACHE

BLOCK = 32  # P, at most


def lags_needed(tno: Tno, longest: int) -> int:
    """Number of lags until decay has made the coefficients vanish, at most `longest`."""
    return int(min(tno.reach(torch.float32), longest))


class _Memory:
    """The blocks and the sums within them. A subclass keeps what lies before the outer block.

    t (K, c): the coefficients. longest: for so many positions. ValueError when more are asked for.
    """

    outer = 512  # Q, at most: the inputs and outputs of so many positions are kept

    def __init__(self, t: Tensor, longest: float):
        self.t, self.longest = t, longest
        self.P = self.Q = min(BLOCK, len(t))
        while min(self.outer, len(t)) >= 2 * self.Q:
            self.Q *= 2
        self.turned = t[:self.P].flip(0).contiguous()  # t(P-1) .. t(0): (P, c)
        self.spectra: dict[int, Tensor] = {}  # B -> transform of t(0) .. t(2B-1): (c, B + 1)
        self.block: Tensor | None = None   # inputs since the outer block's beginning (b, Q, c)
        self.before: Tensor | None = None  # what those before the inner one add (b, Q, c)
        self.filled = self.position = 0

    def look_back(self) -> Tensor:
        """What the inputs read so far add to the next Q outputs: (b, c, Q)."""
        raise NotImplementedError

    def take_in(self, v: Tensor) -> None:
        """The next inputs (b, c, n): the first ones, of any number, then blocks of Q."""
        raise NotImplementedError

    def reorder(self, order: Tensor) -> None:
        """Keeps the sequences `order` (b,) of the batch, for beam search."""
        self.block = self.block.index_select(0, order)
        self.before = None if self.before is None else self.before.index_select(0, order)

    def __call__(self, v: Tensor) -> Tensor:
        self._check_length(v.shape[1])
        if self.block is not None:
            return torch.cat([self._step(v[:, i]) for i in range(v.shape[1])], dim=1)
        n, K = v.shape[1], len(self.t)
        self.take_in(v.mT)
        self.block = v.new_zeros(len(v), self.Q, v.shape[-1])
        self.filled, self.position = self.Q, n  # the next position begins a block
        t = torch.nn.functional.pad(self.t, (0, 0, 0, n - K)) if n > K else self.t[:n]
        return toeplitz_product(v, t)

    def advance(self) -> tuple[int, int]:
        """Makes room for one more position, whose input is to be written to block[:, i]. Its
        output is before[:, i] plus the sum of t(i - j) block[:, j] over first <= j <= i.
        Returns first and i."""
        self._check_length(1)
        i = self.filled
        if i == self.Q:
            if self.before is not None:  # else the last inputs were the prompt's
                self.take_in(self.block.mT)
            self.before, i = self.look_back().mT.contiguous(), 0
        elif i % self.P == 0:
            self._add_block(i)
        self.filled, self.position = i + 1, self.position + 1
        return i - i % self.P, i

    def _add_block(self, i):
        """Adds the B inputs before i to the B outputs from i on. What wraps around in a transform
        of length 2 B falls on outputs that nobody reads."""
        blocks = i // self.P
        B = self.P * (blocks & -blocks)
        if B not in self.spectra:
            self.spectra[B] = torch.fft.rfft(_wide(self.t[:2 * B]).t(), 2 * B)
        inputs = torch.fft.rfft(_wide(self.block[:, i - B:i]).mT, 2 * B)
        y = torch.fft.irfft(inputs.mul_(self.spectra[B]), 2 * B)[..., B:]
        self.before[:, i:i + B] += y.mT

    def _step(self, v):
        """v (b, c) -> (b, 1, c)"""
        first, i = self.advance()
        self.block[:, i] = v
        # Rows of c numbers, one a lag, take a third of the time of einsum's product per channel.
        weights = self.turned[self.P - 1 - i + first:].to(v.dtype)
        y = (self.block[:, first:i + 1] * weights).sum(1, keepdim=True)
        return (y + self.before[:, i:i + 1]).to(v.dtype)

    def _check_length(self, more):
        if self.position + more > self.longest:
            raise ValueError(f"{type(self).__name__}: made for {self.longest} positions, not for "
                             f"{self.position + more}")


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
        self.size = fft_length(self.K + self.Q, 1)
        self.spectrum = torch.fft.rfft(_wide(self.t).t(), self.size)  # (c, F)
        self.past: Tensor | None = None  # the last K inputs (b, c, K), zeros before the first

    def take_in(self, v):
        if v.shape[-1] < self.K:
            past = v.new_zeros(*v.shape[:2], self.K) if self.past is None else self.past
            v = torch.cat([past[:, :, v.shape[-1]:], v], dim=-1)
        self.past = v[:, :, v.shape[-1] - self.K:].clone()  # the block is written anew

    def look_back(self):
        product = torch.fft.rfft(_wide(self.past), self.size).mul_(self.spectrum)
        return torch.fft.irfft(product, self.size)[:, :, self.K:self.K + self.Q]

    def reorder(self, order):
        super().reorder(order)
        self.past = self.past.index_select(0, order)


class StateSpace(_Memory):
    """u_i = lambda u_{i-1} + x_i, y_i = Re sum_s b_s u_i[s] with S + 1 complex states per channel.

    With r the coefficients without decay and r_N = 0, lambda_s = g exp(-2 pi i s / m) and b the
    Fourier transform of r over m. r is real, so states s and m - s are conjugate, and one of the
    two is kept. (The paper does without state 0, by an r_N that makes the zero frequency vanish: a
    sum of N numbers, beside which single precision loses the others' digits. Here it is kept.)

    The states after several inputs, and several outputs of the same states, are Fourier transforms
    of length m. N may be anything from `longest` on: it is such that these are fast. lambda is
    raised to a power Q at a time, in double precision: 4e-5 after 512 single positions in float32.

    Raises ValueError unless the operator is causal, with par_type 1 and act_type "none", and when
    more than `longest` positions are asked for.
    """

    outer = 2048  # to look back takes transforms of the whole length

    def __init__(self, tno: Tno, longest: int):
        _check(tno)
        if activation(tno.act_type) is not identity:
            raise ValueError(f"StateSpace: act_type {tno.act_type} acts on decayed coefficients")
        super().__init__(_flat(tno.coefficients(longest)), longest)
        self.m = m = fft_length(longest + 1, 1)
        r = _wide(_flat(tno.undecayed(m - 1))).t()  # (c, N)
        self.b = torch.fft.rfft(r, m).conj() / m    # (c, S + 1)
        g = tno.decay()
        self.g = (torch.ones_like(r[:, :1]) if g is None else _flat(g).t()).double()  # (c, 1)
        angles = -2 * math.pi * torch.arange(m // 2 + 1, device=r.device).double() / m
        turn = torch.polar(torch.ones_like(angles), angles * self.Q)
        self.lambda_Q = (self.g ** self.Q).to(r.dtype) * turn.to(self.b.dtype)
        self.damping = (_powers(self.g, self.Q) * self.g).to(r.dtype)  # g .. g^Q (c, Q)
        self.u: Tensor | None = None  # (b, c, S + 1)

    def take_in(self, v):
        """With z_k = g^k v_{n-1-k} the new inputs' part is a Fourier transform, sum_k
        z_k exp(-2 pi i s k / m), of length m since n <= N < m."""
        n, u = v.shape[-1], self.u
        if u is None:
            self.u = torch.empty(*v.shape[:2], self.b.shape[1], dtype=self.b.dtype, device=v.device)
        for part in self._parts():
            z = v[:, part].flip(-1) * _powers(self.g[part], n).to(self.damping.dtype)
            new = torch.fft.rfft(z, self.m)
            if u is None:
                self.u[:, part] = new
            else:
                u[:, part].mul_(self.lambda_Q[part]).add_(new)

    def look_back(self):
        """y_{i+k} = g^k Re sum_s b_s u_s exp(-2 pi i s k / m), over all s: irfft adds the
        conjugate halves, and has exp(+ ..), so that k is found at m - k."""
        y = self.t.new_empty(*self.u.shape[:2], self.Q, dtype=self.damping.dtype)
        for part in self._parts():
            found = torch.fft.irfft(self.b[part] * self.u[:, part], self.m, norm="forward")
            torch.mul(found[..., self.m - self.Q:].flip(-1), self.damping[part], out=y[:, part])
        return y

    def _parts(self):
        """Slices of the channels; on a CPU, such that their transforms stay in the cache."""
        c = len(self.b)
        step = max(CACHE // self.m, 1) if self.b.device.type == "cpu" else c
        return [slice(k, min(k + step, c)) for k in range(0, c, step)]

    def reorder(self, order):
        super().reorder(order)
        self.u = self.u.index_select(0, order)


MEMORIES = {"window": Window, "etsc": StateSpace}


def _check(tno):
    if not tno.causal:
        raise ValueError("only a causal operator can be computed one position at a time")
    if tno.par_type != 1:
        raise ValueError("par_type 2 and 3 have other coefficients at every length")


def _powers(g: Tensor, n: int) -> Tensor:
    """g (c, 1) -> 1, g, g^2 .. g^(n-1): (c, n), by products of those that are known, in a fraction
    of the time of as many powers."""
    known = torch.ones_like(g)
    while known.shape[1] < n:
        known = torch.cat([known, known * g ** known.shape[1]], 1)
    return known[:, :n]


def _wide(x):
    return x.float() if x.dtype in HALF else x


def _flat(t):
    """(h, k, d) -> (k, h d), head-major as in the token mixer."""
    return t.transpose(0, 1).flatten(1)
