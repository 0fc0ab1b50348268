"""The blocks of a SparseLSTM, computed one after another or side by side; the same numbers.

sequential   the plain form and reference: torch.nn.LSTM, block after block, as the original did
batched      all blocks in one batched product per time step, input parts in one product over all
             time steps, gates fused in place, gradients derived by hand
threads      CPU: blocks side by side on threads, each with its share of the cores; where the blocks
             do not divide evenly, one block's columns of the batch are shared out too
streams      CUDA: one cuDNN LSTM per block, each on a stream of its own

Letters: T time, B batch, I input size, H hidden size, k blocks, n window and h state size of a
block (the largest, where blocks are padded), D directions.
"""

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.autograd.function import Function, once_differentiable

if TYPE_CHECKING:
    from sparse_seq.rnn import Composition, SparseLSTM

Weights = list[list[Tensor]]  # per block: weight_ih, weight_hh, bias_ih, bias_hh (and reverse ones)
States = tuple[Tensor, Tensor]


def _slices(composition: "Composition"):
    return zip(composition.inputs, composition.outputs, strict=True)


# ------------------------------------------------------------------------------------- sequential
def sequential(lstms: nn.ModuleList, x: Tensor, hidden: States, composition: "Composition"):
    """x (T, B, I), hidden (h, c) each (D, B, H) -> (T, B, D*H), (h, c)."""
    h, c = hidden
    outputs, states = [], []
    for block, ((i0, i1), (o0, o1)) in zip(lstms, _slices(composition), strict=True):
        y, state = block(x[..., i0:i1], (h[..., o0:o1].contiguous(), c[..., o0:o1].contiguous()))
        outputs.append(y)
        states.append(state)
    return torch.cat(outputs, -1), tuple(torch.cat(s, -1) for s in zip(*states, strict=True))


def lstm(x: Tensor, hidden: States, weights: list[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """torch.nn.LSTM's own operator, its weights given: x (T, B, n) -> y, h, c."""
    return torch.lstm(x, hidden, weights, True, 1, 0.0, True, len(weights) == 8, False)


# ---------------------------------------------------------------------------------------- threads
_pools: dict[tuple[int, int], ThreadPoolExecutor] = {}
_pools_lock = threading.Lock()


def _pool(workers: int, share: int) -> ThreadPoolExecutor:
    """`workers` threads whose operators use `share` cores each."""
    with _pools_lock:
        if (workers, share) not in _pools:
            def start():
                torch.get_num_threads()  # the first call sets a new thread up: it must come ...
                torch.set_num_threads(share)  # ... before this, which is for this thread alone
                everyone.wait()

            everyone = threading.Barrier(workers + 1)
            here = torch.get_num_threads()
            pool = ThreadPoolExecutor(workers, "sparse-lstm-block", initializer=start)
            for _ in range(workers):
                pool.submit(int)
            everyone.wait()
            torch.set_num_threads(here)  # what later threads start with
            _pools[workers, share] = pool
    return _pools[workers, share]


def share_out(blocks: int, workers: int, columns: int) -> list[list[tuple[int, int, int]]]:
    """Who computes what: per worker (block, first column, last column + 1).

    Whole blocks as long as every worker gets one more; what is left over is cut by columns of the
    batch: 3 blocks for 2 workers are one and a half each.
    """
    whole = blocks - blocks % workers
    edges = [columns * w // workers for w in range(workers + 1)]
    plan = []
    for w in range(workers):
        own = [(b, 0, columns) for b in range(w, whole, workers)]
        own += [(b, edges[w], edges[w + 1]) for b in range(whole, blocks)
                if edges[w] < edges[w + 1]]
        plan.append(own)
    return plan


def threads(weights: Weights, x: Tensor, hidden: States, composition: "Composition"):
    """Blocks side by side on threads (CPU). Shapes as `sequential`."""
    y, h, c = _SideBySide.apply(composition, len(weights[0]), x, *hidden,
                                *(w for block in weights for w in block))
    return y, (h, c)


class _Piece:
    """One block on some columns of the batch, with its own little graph."""

    def __init__(self, composition, task, x, h, c, weights):
        self.block, first, last = task
        (i0, i1), (o0, o1) = composition.inputs[self.block], composition.outputs[self.block]
        d = len(h)
        self.x_place = (slice(None), slice(first, last), slice(i0, i1))
        self.place = (slice(None), slice(first, last), slice(o0, o1))
        self.y_place = (slice(None), slice(first, last), slice(d * o0, d * o1))
        self.leaves = [x[self.x_place], h[self.place].contiguous(), c[self.place].contiguous(),
                       *weights]

    def forward(self, needs_grad: bool, needs: list[bool]):
        with torch.set_grad_enabled(needs_grad):
            self.leaves = [leaf.detach().requires_grad_(needs_grad and need)
                           for leaf, need in zip(self.leaves, needs, strict=True)]
            x, h, c, *weights = self.leaves
            self.results = lstm(x, (h, c), weights)
            return [r.detach() for r in self.results]

    def backward(self, gy, gh, gc):
        grads = (gy[self.y_place], gh[self.place], gc[self.place])
        wanted = [leaf for leaf in self.leaves if leaf.requires_grad]
        found = iter(torch.autograd.grad(self.results, wanted, grads) if wanted else ())
        return [next(found) if leaf.requires_grad else None for leaf in self.leaves]


class _SideBySide(Function):
    """Each worker computes its pieces under graphs of their own, and later runs those backwards.

    (Autograd runs a graph on the CPU in one thread: the pieces' graphs are hidden from it.)
    """

    @staticmethod
    def forward(ctx, composition, per_block, x, h, c, *flat):
        k, (steps, columns, _) = composition.blocks, x.shape
        total = torch.get_num_threads()
        workers = max(1, min(total, k * columns))
        ctx.pool = _pool(workers, max(1, total // workers))
        ctx.shapes, ctx.per_block = (x, h, *flat), per_block
        states, needs = ctx.needs_input_grad[2:5], ctx.needs_input_grad[5:]

        def work(tasks):
            done = []
            for block, *part in tasks:
                own = slice(block * per_block, (block + 1) * per_block)
                piece = _Piece(composition, (block, *part), x, h, c, flat[own])
                done.append((piece, piece.forward(any(ctx.needs_input_grad),
                                                  [*states, *needs[own]])))
            return done

        done = _together(ctx.pool, work, share_out(k, workers, columns))
        ctx.plan = [[piece for piece, _ in own] for own in done]
        y, hn, cn = x.new_empty(steps, columns, len(h) * h.shape[2]), *map(torch.empty_like, (h, c))
        for piece, (py, ph, pc) in (pair for own in done for pair in own):
            y[piece.y_place], hn[piece.place], cn[piece.place] = py, ph, pc
        return y, hn, cn

    @staticmethod
    @once_differentiable
    def backward(ctx, gy, gh, gc):
        def work(pieces):
            return [(piece, piece.backward(gy, gh, gc)) for piece in pieces]

        x, h, *flat = ctx.shapes
        gx, gh0, gc0 = torch.zeros_like(x), torch.empty_like(h), torch.empty_like(h)
        grads = [None] * len(flat)
        for piece, (px, ph, pc, *pw) in (p for own in _together(ctx.pool, work, ctx.plan)
                                         for p in own):
            if px is not None:
                gx[piece.x_place] += px
            if ph is not None:
                gh0[piece.place] = ph
            if pc is not None:
                gc0[piece.place] = pc
            for j, grad in enumerate(pw, piece.block * ctx.per_block):
                grads[j] = grad if grads[j] is None else grads[j] + grad
        return None, None, gx, gh0, gc0, *grads


def _together(pool: ThreadPoolExecutor, work, shares: list) -> list:
    """work(share) for every share, at the same time; results in order."""
    return [future.result() for future in [pool.submit(work, share) for share in shares]]


# ---------------------------------------------------------------------------------------- batched
def batched(weights: Weights, x: Tensor, hidden: States, composition: "Composition"):
    """All blocks in one batched product per time step. Shapes as `sequential`.

    Unequal blocks are padded with zeros to the largest. A padded unit has i = f = o = 1/2 and
    g = 0, so its c and h stay 0 and nothing comes back from it.
    """
    directions = []
    for d in range(len(hidden[0])):
        own = [block[4 * d:4 * d + 4] for block in weights]
        directions.append(_one_way(own, x.flip(0) if d else x, hidden[0][d], hidden[1][d],
                                   composition))
    if len(directions) == 1:
        y, h, c = directions[0]
        return y, (h[None], c[None])
    (y, h, c), (y_back, h_back, c_back) = directions
    y_back = y_back.flip(0)
    y = torch.cat([part[..., o0:o1] for o0, o1 in composition.outputs for part in (y, y_back)], -1)
    return y, (torch.stack([h, h_back]), torch.stack([c, c_back]))


def _one_way(weights: Weights, x: Tensor, h: Tensor, c: Tensor, composition: "Composition"):
    """One direction: x (T, B, I), h and c (B, H) -> (T, B, H), h, c."""
    size = max(o1 - o0 for o0, o1 in composition.outputs)                          # h
    width = max(i1 - i0 for i0, i1 in composition.inputs)                          # n
    w_ih = torch.stack([_padded(w, size, width) for w, *_ in weights])             # (k, 4h, n)
    w_hh = torch.stack([_padded(w, size, size) for _, w, *_ in weights])           # (k, 4h, h)
    bias = torch.stack([_padded((b + b2)[:, None], size, 1) for *_, b, b2 in weights])
    windows = torch.stack([_wide(x[..., i0:i1], width) for i0, i1 in composition.inputs])
    h, c = (torch.stack([_wide(s[:, o0:o1], size) for o0, o1 in composition.outputs])
            for s in (h, c))                                                       # (k, B, h)
    y, c = _Recurrence.apply(windows, h, c, w_ih, w_hh, bias)
    y = torch.cat([y[b, ..., :o1 - o0] for b, (o0, o1) in enumerate(composition.outputs)], -1)
    c = torch.cat([c[b, :, :o1 - o0] for b, (o0, o1) in enumerate(composition.outputs)], -1)
    return y, y[-1], c


def _padded(weight: Tensor, size: int, width: int) -> Tensor:
    """(4 h_c, n_c) -> (4 size, width), zeros at the end of each gate and row."""
    rows, columns = len(weight) // 4, weight.shape[1]
    if (rows, columns) == (size, width):
        return weight
    gates = nn.functional.pad(weight.view(4, rows, columns),
                              (0, width - columns, 0, size - rows))
    return gates.reshape(4 * size, width)


def _wide(x: Tensor, width: int) -> Tensor:
    return x if x.shape[-1] == width else nn.functional.pad(x, (0, width - x.shape[-1]))


class _Recurrence(Function):
    """k LSTMs of the same sizes: the equations, and their derivative.

        i, f, o = sigmoid(..), g = tanh(..),  c = f c' + i g,  h = o tanh(c)
    """

    @staticmethod
    def forward(ctx, x, h, c, w_ih, w_hh, bias):
        k, steps, columns, width = x.shape
        size = h.shape[-1]
        gates = torch.baddbmm(bias.transpose(1, 2), x.reshape(k, -1, width), w_ih.transpose(1, 2))
        gates = gates.view(k, steps, columns, 4 * size)
        hs, cs = (x.new_empty(k, steps + 1, columns, size) for _ in range(2))
        hs[:, 0], cs[:, 0] = h, c
        w_t = w_hh.transpose(1, 2)
        for t in range(steps):
            now = gates[:, t]
            now += torch.bmm(hs[:, t], w_t)
            now[..., :2 * size].sigmoid_()
            now[..., 2 * size:3 * size].tanh_()
            now[..., 3 * size:].sigmoid_()
            i, f, g, o = now.split(size, -1)
            torch.mul(f, cs[:, t], out=cs[:, t + 1]).addcmul_(i, g)
            torch.mul(o, cs[:, t + 1].tanh(), out=hs[:, t + 1])
        ctx.save_for_backward(x, w_ih, w_hh, gates, hs, cs)
        return hs[:, 1:].clone(), cs[:, -1].clone()

    @staticmethod
    @once_differentiable
    def backward(ctx, gy, gc):
        x, w_ih, w_hh, gates, hs, cs = ctx.saved_tensors
        k, steps, columns, width = x.shape
        grads = torch.empty_like(gates)
        dh, dc = torch.zeros_like(hs[:, 0]), gc
        for t in reversed(range(steps)):
            i, f, g, o = gates[:, t].chunk(4, -1)
            di, df, dg, do = grads[:, t].chunk(4, -1)
            dh = dh + gy[:, t]
            tanh = cs[:, t + 1].tanh()
            do.copy_(dh * tanh * (o * (1 - o)))
            dc = torch.addcmul(dc, dh * o, 1 - tanh * tanh)
            di.copy_(dc * g * (i * (1 - i)))
            df.copy_(dc * cs[:, t] * (f * (1 - f)))
            dg.copy_(dc * i * (1 - g * g))
            dc = dc * f
            dh = torch.bmm(grads[:, t], w_hh)
        flat = grads.view(k, steps * columns, -1)
        turned = flat.transpose(1, 2)                                              # (k, 4h, T*B)
        dx = torch.bmm(flat, w_ih).view_as(x) if ctx.needs_input_grad[0] else None
        return (dx, dh, dc, torch.bmm(turned, x.reshape(k, -1, width)),
                torch.bmm(turned, hs[:, :-1].reshape(k, steps * columns, -1)),
                flat.sum(1)[..., None])


# ---------------------------------------------------------------------------------------- streams
def streams(weights: Weights, x: Tensor, hidden: States, composition: "Composition"):
    """One cuDNN LSTM per block, side by side on CUDA streams. Shapes as `sequential`.

    Autograd runs each operator's derivative on the stream of the operator, so the backward pass
    goes side by side too.
    """
    here = torch.cuda.current_stream(x.device)
    results = []
    for block, ((i0, i1), (o0, o1)) in zip(weights, _slices(composition), strict=True):
        parts = [part.contiguous() for part in (x[..., i0:i1], *(s[..., o0:o1] for s in hidden))]
        stream = torch.cuda.Stream(x.device)
        stream.wait_stream(here)
        with torch.cuda.stream(stream):
            for tensor in (*parts, *block):  # the allocator may not reuse them before it is done
                tensor.record_stream(stream)
            results.append((stream, lstm(parts[0], tuple(parts[1:]), block)))
    for stream, tensors in results:
        here.wait_stream(stream)
        for tensor in tensors:
            tensor.record_stream(here)
    y, h, c = (torch.cat(s, -1) for s in zip(*(tensors for _, tensors in results), strict=True))
    return y, (h, c)


# ----------------------------------------------------------------------------------------- choice
FORMS = {"sequential": sequential, "threads": threads, "batched": batched, "streams": streams}


def choose_form(layer: "SparseLSTM", x: Tensor) -> str:
    """The fastest form for a layer and its input x (T, B, I), as far as it has been measured: on
    the CPU block after block already keeps the cores busy."""
    if x.device.type == "cuda" and layer.composition.blocks > 1 \
            and not torch.compiler.is_compiling():
        return "streams"
    return "sequential"
