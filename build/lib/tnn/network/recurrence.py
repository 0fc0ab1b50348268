"""A causal Toeplitz operator as a recurrence: constant time and memory for each further position.

Notation: b batch, n positions at once, c channels (the heads' side by side), K lags kept, N length
for which the state space is exact, m = N + 1, S = m // 2 states.

Window keeps the last K inputs: exact to the coefficients beyond K, which decay makes vanish; of an
operator whose coefficients do not vanish it serves `longest` positions. StateSpace is the exact
conversion to a diagonal state space, ETSC (Qin and Zhong 2023, arXiv 2311.08756): exact for N
positions whatever the decay, and wrong after them. A memory belongs to one sequence being
generated; calling it with the next positions v (b, n, c) returns Tno's outputs for them.
"""

import math

import torch
from torch import Tensor

from tnn.network.tno import Tno
from tnn.network.toeplitz import toeplitz_product


def lags_needed(tno: Tno, longest: int) -> int:
    """Number of lags until decay has made the coefficients vanish, at most `longest`."""
    return int(min(tno.reach(torch.float32), longest))


class Window:
    """The last K inputs in a ring: y_i = sum_{k < K} t(k) x_{i-k}.

    Raises ValueError unless the operator is causal, with par_type 1, and when more than `longest`
    positions are asked for of an operator whose coefficients do not vanish before.
    """

    def __init__(self, tno: Tno, longest: int):
        _check(tno)
        self.K = lags_needed(tno, longest)
        self.longest = math.inf if tno.reach(torch.float32) <= longest else longest
        t = _flat(tno.coefficients(self.K))  # (K, c)
        self.t = t
        # slot s holds the input of K - 1 - s steps before the newest one, turned by the position.
        # Lags are the last axis: the sum over another one takes 50 times as long.
        self.turned = torch.cat([t, t]).flip(0).t().contiguous()  # (c, 2K)
        self.ring: Tensor | None = None  # (b, c, K)
        self.position = 0

    def __call__(self, v: Tensor) -> Tensor:
        if self.position + v.shape[1] > self.longest:
            raise ValueError(f"Window: made for {self.longest} positions, not for "
                             f"{self.position + v.shape[1]}; the coefficients do not vanish before")
        if self.ring is None:
            self.ring = v.new_zeros(len(v), v.shape[-1], self.K)
            return self._prompt(v)
        return torch.cat([self._step(v[:, i]) for i in range(v.shape[1])], dim=1)

    def reorder(self, order: Tensor) -> None:
        """Keeps the sequences `order` (b,) of the batch, for beam search."""
        self.ring = self.ring.index_select(0, order)

    def _prompt(self, v):
        n = self.position = v.shape[1]
        last = torch.arange(max(n - self.K, 0), n, device=v.device)
        self.ring[:, :, last % self.K] = v[:, last].mT
        t = torch.nn.functional.pad(self.t, (0, 0, 0, n - self.K)) if n > self.K else self.t[:n]
        return toeplitz_product(v, t)

    def _step(self, v):
        """v (b, c) -> (b, 1, c)"""
        newest = self.position % self.K
        self.ring[:, :, newest] = v
        self.position += 1
        filled = min(self.position, self.K)
        weights = self.turned[:, self.K - 1 - newest:][:, :filled].to(v.dtype)
        return torch.einsum("ck,bck->bc", weights, self.ring[:, :, :filled]).unsqueeze(1)


class StateSpace:
    """u_i = lambda u_{i-1} + x_i, y_i = Re sum_s b_s u_i[s] with S complex states per channel.

    With r the coefficients without decay, r_N = -sum of the others (the zero frequency vanishes),
    lambda_s = g exp(-2 pi i s / m) and b the inverse Fourier transform of r. r is real, so states
    s and m - s are conjugate: one of the two is kept, with twice the weight. All in double
    precision: rounding of lambda is raised to the power of the lag, 4e-5 after 512 positions in
    single precision.

    Raises ValueError unless the operator is causal, with par_type 1 and act_type "none", and when
    more than N positions are asked for.
    """

    def __init__(self, tno: Tno, longest: int):
        _check(tno)
        if tno.act_type != "none":
            raise ValueError(f"StateSpace: act_type {tno.act_type} acts on decayed coefficients")
        self.N, m = longest, longest + 1
        r = _flat(tno.undecayed(longest)).double().t()  # (c, N)
        r = torch.cat([r, -r.sum(-1, keepdim=True)], dim=-1)  # (c, m)
        states = torch.arange(1, m // 2 + 1, device=r.device)
        weight = torch.where(2 * states == m, 1.0, 2.0).double()
        self.b = torch.fft.rfft(r).conj()[:, 1:] * weight / m  # (c, S)
        g = tno.decay()
        self.g = (torch.ones_like(r[:, :1]) if g is None else _flat(g).t()).double()  # (c, 1)
        angles = -2 * math.pi * states.double() / m
        self.lambda_ = self.g * torch.polar(torch.ones_like(angles), angles)  # (c, S)
        self.t = _flat(tno.coefficients(longest))
        self.u: Tensor | None = None  # (b, c, S)
        self.position = 0

    def __call__(self, v: Tensor) -> Tensor:
        if self.position + v.shape[1] > self.N:
            raise ValueError(f"StateSpace: made for {self.N} positions, not for "
                             f"{self.position + v.shape[1]}")
        self.position += v.shape[1]
        if self.u is None:
            self.u = self._after(v)
            return toeplitz_product(v, self.t[: v.shape[1]])
        return torch.cat([self._step(v[:, i]) for i in range(v.shape[1])], dim=1)

    def reorder(self, order: Tensor) -> None:
        """Keeps the sequences `order` (b,) of the batch, for beam search."""
        self.u = self.u.index_select(0, order)

    def _after(self, v):
        """The states after the prompt v (b, n, c): with z_k = g^k v_{n-1-k} they are a Fourier
        transform, sum_k z_k exp(-2 pi i s k / m), of length m since n <= N < m."""
        n = v.shape[1]
        damping = self.g ** torch.arange(n, device=v.device)  # (c, n)
        z = v.flip(1).mT.double() * damping
        return torch.fft.rfft(z, self.N + 1)[..., 1:]  # (b, c, S)

    def _step(self, v):
        """v (b, c) -> (b, 1, c)"""
        self.u.mul_(self.lambda_).add_(v.unsqueeze(-1))
        return torch.einsum("cs,bcs->bc", self.b, self.u).real.to(v.dtype).unsqueeze(1)


MEMORIES = {"window": Window, "etsc": StateSpace}


def _check(tno):
    if not tno.causal:
        raise ValueError("only a causal operator can be computed one position at a time")
    if tno.par_type != 1:
        raise ValueError("par_type 2 and 3 have other coefficients at every length")


def _flat(t):
    """(h, k, d) -> (k, h d), head-major as in the token mixer."""
    return t.transpose(0, 1).flatten(1)
