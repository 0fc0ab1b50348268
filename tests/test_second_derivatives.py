"""Every autograd function of the product can be differentiated twice, or says that it cannot. A
gradient penalty whose second derivative is lost looks like a penalty of zero: no error, wrong
training. A function that none of these operations calls is a failure too."""

import ast
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F

from kernels import product, rms_norm
from sparse_seq.language_modeling.model import target_log_prob, target_log_prob_plain
from sparse_seq.parallel import _Exchange, _ReadByAll
from tests.kernels import test_second_derivatives as of_kernels
from tests.kernels.test_second_derivatives import (
    assert_same,
    fast_forms_at_any_size,  # noqa: F401 - a fixture that every test here uses
    leaves_of,
    penalised,
)
from tnn import TnnBlock
from tnn.im.model import Block
from tnn.network import fused, fused_grid, fused_plain
from tnn.network.grid import toeplitz_rows
from tnn.network.norms import EPS, SimpleRMSNormByHand, rms_normalized
from tnn.network.toeplitz import toeplitz_matrix, toeplitz_product
from trellisnet.last_output import trellis_last
from trellisnet.levels import trellis_levels
from trellisnet.levels_plain import trellis_plain

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("awd_lstm", "common", "getdata", "harness", "kernels", "report", "sparse_seq", "tnn",
            "trellisnet")
BITS = torch.randint(-2**15, 2**15, (2 * 3 * 5 * 7,), dtype=torch.int16,
                     generator=torch.Generator().manual_seed(1))
RATE = 0.3


def bits(count):
    return BITS[:count]


def mask(count):
    return fused.keep_mask(bits(count), RATE, torch.float32)


def mixed(function):
    """function(x, y) with y rounded to bfloat16, and the results widened."""
    def call(x, y):
        results = function(x, y.bfloat16())
        results = (results,) if isinstance(results, torch.Tensor) else results
        return tuple(result.float() for result in results)
    return call


def summed_and_normed(x, y):
    total = x + y
    return total, rms_norm.rms_normalized_plain(total, EPS, y.dtype)


def of_first_lags(x, t):
    """toeplitz_product with 3 lags out of 5, as a dense matrix."""
    kept = F.pad(t, (0, 0, 0, 2)) if len(t) == 3 else torch.cat(
        [t[:3], t.new_zeros(4, t.shape[1]), t[3:]])
    return torch.einsum("eij,bje->bie", toeplitz_matrix(kept.t(), 5), x)


# fast form, plain form, shapes of the inputs
OPERATIONS = of_kernels.OPERATIONS | {
    "toeplitz_rows": (lambda t: toeplitz_rows(t, 5), lambda t: toeplitz_matrix(t, 5), [(3, 9)]),
    "toeplitz_rows, causal": (lambda t: toeplitz_rows(t, 5), lambda t: toeplitz_matrix(t, 5),
                              [(3, 5)]),
    "toeplitz_product": (toeplitz_product, lambda x, t: torch.einsum(
        "eij,bje->bie", toeplitz_matrix(t.t(), 5), x), [(2, 5, 3), (9, 3)]),
    "toeplitz_product, first lags": (lambda x, t: toeplitz_product(x, t, lags=3), of_first_lags,
                                     [(2, 5, 3), (5, 3)]),
    "glu": (lambda *i: fused._Glu.apply(*i, None, 0.0), fused_plain.glu,
            [(5, 3), (14, 3), (14,), (3, 7), (3,)]),
    "glu, dropout": (lambda *i: fused._Glu.apply(*i, bits(35), RATE),
                     lambda *i: fused_plain.glu(*i, mask(35)),
                     [(5, 3), (14, 3), (14,), (3, 7), (3,)]),
    "activated": (fused._Activated.apply, fused_plain.activated, [(2, 5, 3), (7, 3), (7,)]),
    "gated_output": (lambda *i: fused._GatedOutput.apply(*i, bits(70), RATE),
                     lambda *i: fused_plain.gated_output(*i, mask(70)),
                     [(2, 5, 3), (2, 7, 5), (7, 3), (7,), (3, 7), (3,)]),
    "silu_product": (fused_grid.silu_product, fused_plain.silu_product, [(6, 5)]),
    "gated_grid": (fused_grid.gated_grid, fused_plain.gated_grid,
                   [(2, 3, 4, 2, 5), (3, 4, 4), (3, 5, 5)]),
    "rms norm": (SimpleRMSNormByHand(), rms_normalized, [(5, 7)]),
    "sum": (mixed(rms_norm.added), mixed(torch.add), [(5, 7), (5, 7)]),
    "sum and norm": (mixed(lambda x, y: rms_norm.added_and_normalized(x, y, EPS)),
                     mixed(summed_and_normed), [(5, 7), (5, 7)]),
    "target_log_prob": (lambda z: target_log_prob(z * 1, of_kernels.TARGETS),
                        lambda z: target_log_prob_plain(z, of_kernels.TARGETS), [(5, 130)]),
    "trellis_levels": (lambda *i: trellis_levels(*i, None, (1, 2, 1), 3, 0, (0,)),
                       lambda *i: trellis_plain(*i, None, (1, 2, 1), 3, 0, (0,)),
                       [(6, 2, 4), (20, 4, 2), (20, 5, 2), (20,), (2, 5), (2, 5)]),
    "trellis_last": (lambda *i: trellis_last(*i, None, (1, 1, 2, 4), 3)[::2],
                     lambda *i: trellis_plain(*i, None, (1, 1, 2, 4), 3, 10)[::3],
                     [(11, 2, 4), (20, 4, 2), (20, 5, 2), (20,), (2, 5), (2, 5)]),
}


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """A group of one process."""
    store = dist.FileStore(str(tmp_path_factory.mktemp("group") / "store"), 1)
    dist.init_process_group("gloo", store=store, rank=0, world_size=1)
    yield {"_ReadByAll": lambda x: _ReadByAll.apply(dist.group.WORLD, x)[0],
           "_Exchange": lambda x: _Exchange.apply(x, [3], dist.group.WORLD)}
    dist.destroy_process_group()


def functions_in_source():
    """Names of all classes derived from autograd's Function."""
    found = set()
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.ClassDef) and any(
                        ast.unparse(base).split(".")[-1] == "Function" for base in node.bases):
                    found.add(node.name)
    return found


def functions_behind(result):
    """Names of all nodes of the graph."""
    results = result if isinstance(result, tuple) else (result,)
    nodes, found = [y.grad_fn for y in results], set()
    while nodes:
        node = nodes.pop()
        if node is not None and node not in found:
            found.add(node)
            nodes += [before for before, _ in node.next_functions]
    return {node.name().removesuffix("Backward") for node in found}


def test_every_function_of_the_product_is_tried_here(alone):
    reached = set()
    for fast, _, shapes in OPERATIONS.values():
        reached |= functions_behind(fast(*leaves_of(shapes)))
    for fast in alone.values():
        reached |= functions_behind(fast(*leaves_of([(2, 3)])))
    if product._onednn_linear() is None:  # a PyTorch without oneDNN
        reached |= {"_Product", "_Linear"}
    assert functions_in_source() - reached == set()


@pytest.mark.parametrize("name", sorted(OPERATIONS.keys() - of_kernels.OPERATIONS.keys()))
def test_penalty_on_the_gradient_equals_the_plain_form(name):
    fast, plain, shapes = OPERATIONS[name]
    leaves = leaves_of(shapes)
    assert_same(penalised(fast, leaves), penalised(plain, leaves))


@pytest.mark.parametrize("name", sorted(OPERATIONS.keys() - of_kernels.OPERATIONS.keys()))
def test_frozen_inputs(name):
    fast, plain, shapes = OPERATIONS[name]
    for frozen in range(len(shapes)):
        leaves = leaves_of(shapes)
        leaves[frozen].requires_grad_(len(shapes) == 1)
        assert_same(penalised(fast, leaves), penalised(plain, leaves))


def test_third_derivatives():
    for name in ("target_log_prob", "toeplitz_product", "rms norm"):  # which make x again
        fast, plain, shapes = OPERATIONS[name]
        thirds = []
        for function in (fast, plain):
            leaves = leaves_of(shapes)
            derivative = function(*leaves).sin().sum()
            for _ in range(2):
                found = torch.autograd.grad(derivative, leaves, create_graph=True)
                derivative = sum(g.square().sum() for g in found)
            thirds.append(torch.autograd.grad(derivative, leaves))
        assert_same(*thirds, tolerance=1e-4)


@pytest.mark.parametrize("module", ["causal", "bidirectional", "grid"])
def test_whole_blocks(module):
    torch.manual_seed(0)
    if module == "grid":
        block = Block(4, 1, 4, 4, rpe_layers=1).double()
        x = torch.randn(1, 2, 3, 4, dtype=torch.float64, requires_grad=True)
    else:
        block = TnnBlock(4, causal=module == "causal", use_decay=True, rpe_embedding=4,
                         rpe_layers=1, glu_dim=4).double()
        x = torch.randn(1, 3, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(block, x)


@pytest.mark.parametrize("name", ["_ReadByAll", "_Exchange"])
def test_sums_over_processes_refuse_instead_of_giving_zero(alone, name):
    x, = leaves_of([(2, 3)])
    y = alone[name](x).sin().sum()
    with pytest.raises(RuntimeError, match="no second derivative"):
        torch.autograd.grad(y, x, create_graph=True)
    assert torch.autograd.grad(y, x)[0].shape == x.shape
