"""Devices, processes, random states, gradients."""

import argparse
import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from harness import flags, machine
from harness.endings import BadInput


def args(**changes) -> argparse.Namespace:
    given = {"device": "cpu", "precision": "32", "deterministic": False, "devices": 1, "seed": 3}
    return argparse.Namespace(**given | changes)


@pytest.fixture
def fabric():
    return machine.make_fabric(args())


# --------------------------------------------------------------------------------- devices
@pytest.mark.parametrize(("flags", "kind"), [
    ({}, "cpu"), ({"device": "auto"}, "auto"), ({"device": "auto", "cuda": False}, "cpu"),
    ({"device": "auto", "cuda": None}, "auto")], ids=str)
def test_the_device_that_the_flags_name(flags, kind):
    assert machine.device_of(args(**flags)) == kind


@pytest.mark.parametrize(("flags", "says"), [
    ({"device": "cuda"}, "--device cuda: PyTorch finds no CUDA device here; use --device cpu"),
    ({"device": "auto", "cuda": True}, "--cuda: PyTorch finds no CUDA device here"),
    ({"device": "mps"}, "--device mps: PyTorch finds no Apple GPU here; use --device cpu")],
    ids=str)
def test_a_device_that_is_not_there_is_refused(monkeypatch, flags, says):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(BadInput, match=says):
        machine.make_fabric(args(**flags))


@pytest.mark.parametrize(("there", "says"), [(1, "this machine has 1 GPU$"),
                                             (2, "this machine has 2 GPUs$")])
@pytest.mark.parametrize("kind", ["auto", "cuda"])
def test_more_devices_than_gpus(monkeypatch, there, says, kind):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: there)
    with pytest.raises(BadInput, match=f"--devices 3: {says}"):
        machine.make_fabric(args(device=kind, devices=3))


def test_a_fabric_is_seeded_and_flushes_denormals(fabric):
    drawn = torch.rand(3), random.random(), np.random.rand()
    machine.make_fabric(args())
    assert torch.equal(drawn[0], torch.rand(3))
    assert drawn[1:] == (random.random(), np.random.rand())
    assert (torch.tensor([1e-20]) * torch.tensor([1e-22])).item() == 0
    assert torch.get_default_dtype() == torch.float32


def test_double_precision_is_the_default_type():
    machine.make_fabric(args(precision="64"))
    assert torch.zeros(1).dtype == torch.float64


def test_deterministic_algorithms(monkeypatch):
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    machine.make_fabric(args(deterministic=True))
    assert torch.are_deterministic_algorithms_enabled()


# ------------------------------------------------------------------- flags that make a CPU slower
@pytest.fixture
def no_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)


@pytest.mark.parametrize(("has", "used"), [
    ({"architecture": "x86_64", "avx2": True}, "32"),
    ({"architecture": "x86_64", "avx512_bf16": True}, "bf16-mixed"),
    ({"architecture": "x86_64", "amx_bf16": True}, "bf16-mixed"),
    ({"architecture": "arm"}, "bf16-mixed")], ids=str)
@pytest.mark.parametrize("device", ["cpu", "auto"])
def test_bfloat16_only_where_the_cpu_gains(monkeypatch, no_gpu, has, used, device):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: has)
    given = args(device=device, precision="bf16-mixed")
    said = machine.set_aside_slow_flags(given)
    assert given.precision == used
    assert list(said) == ["precision"] * (used == "32")


def test_a_gpu_is_not_asked_for_its_cpu(monkeypatch, no_gpu):
    monkeypatch.setattr(machine, "bf16_pays", lambda: False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for device in ("auto", "cuda"):
        given = args(device=device, precision="bf16-mixed", compile=True)
        given.slower_on_cpu = {"compile"}
        assert machine.set_aside_slow_flags(given) == {}
        assert (given.precision, given.compile) == ("bf16-mixed", True)


@pytest.mark.parametrize("slower", [True, False])
@pytest.mark.parametrize(("words", "before"), [("", False), ("--compile", True),
                                               ("--compile force", "force")])
def test_compile_on_a_cpu(no_gpu, slower, words, before):
    p = flags.parser("a script")
    flags.add_machine(p)
    flags.add_parallel(p, slower_on_cpu=slower)
    given = flags.parse(p, [*words.split(), "--device", "cpu"])
    assert given.compile == before
    said = machine.set_aside_slow_flags(given)
    assert given.compile == (False if slower and before is True else before)
    assert list(said) == ["compile"] * (slower and before is True)


@pytest.mark.parametrize(("count", "world"), [(8, 1), (8, 2), (7, 3), (3, 3), (10, 4)])
def test_shares_are_disjoint_in_order_and_even(count, world):
    shares = [machine.share(SimpleNamespace(global_rank=rank, world_size=world), count)
              for rank in range(world)]
    assert [i for part in shares for i in range(count)[part]] == [*range(count)]
    sizes = [part.stop - part.start for part in shares]
    assert max(sizes) - min(sizes) <= 1


# --------------------------------------------------------------------------- random states
def draw() -> list:
    return [random.random(), random.gauss(0, 1), np.random.rand(), np.random.normal(),
            torch.rand(2).tolist(), torch.randn(1).tolist()]


def test_all_streams_go_back(fabric, tmp_path):
    """Also after a file, which holds tensors and plain values only."""
    draw()
    torch.save(machine.random_states(fabric), tmp_path / "states")
    expected = [draw() for _ in range(3)]
    machine.seed_everything(99)
    machine.set_random_states(torch.load(tmp_path / "states", weights_only=True), fabric)
    assert [draw() for _ in range(3)] == expected


def test_streams_that_an_old_state_lacks_stay(fabric):
    states = machine.random_states(fabric)
    for name in ("python", "numpy"):
        del states[name]
    machine.seed_everything(5)
    before = torch.get_rng_state()
    expected = [random.random(), np.random.rand()]
    machine.seed_everything(5)
    machine.set_random_states(states, fabric)
    assert [random.random(), np.random.rand()] == expected
    assert torch.equal(torch.get_rng_state(), states["torch"])
    assert not torch.equal(before, states["torch"])


def test_a_runs_own_generator_goes_back():
    generator = np.random.RandomState(4)
    generator.normal(size=3)  # leaves half a pair of normal numbers behind
    state = machine.generator_state(generator)
    expected = generator.normal(size=5).tolist()
    other = np.random.RandomState(1)
    machine.set_generator_state(other, state)
    assert other.normal(size=5).tolist() == expected


@pytest.mark.parametrize("rank", [0, 1, 2])
def test_only_the_other_processes_get_streams_of_their_own(rank):
    torch.manual_seed(3)
    machine.own_stream(SimpleNamespace(global_rank=rank), 3)
    assert torch.equal(torch.rand(4), torch.rand(4, generator=torch.Generator().manual_seed(
        3 + rank)))


# --------------------------------------------------------------------------- one process alone
def test_moving_nested_values():
    value = {"a": [torch.ones(2, requires_grad=True), (torch.zeros(1), 3)], "b": None, "c": "x"}
    moved = machine.to_device(value, "meta")
    assert moved["a"][0].device.type == moved["a"][1][0].device.type == "meta"
    assert not moved["a"][0].requires_grad
    assert (moved["a"][1][1], moved["b"], moved["c"]) == (3, None, "x")


def test_sums_of_one_process(fabric):
    assert machine.mean(fabric, torch.tensor(0.1)) == torch.tensor(0.1).item()
    assert machine.total(fabric, 1, 2.5) == [1, 2.5]
    assert machine.greatest(fabric, 7) == 7
    assert machine.gather(fabric, {"x": 1}) == [{"x": 1}]


def test_bad_input_of_one_process_is_that_of_all(monkeypatch, fabric):
    with machine.together(fabric):
        pass
    with pytest.raises(BadInput, match="mine"), machine.together(fabric):
        raise BadInput("mine")
    with pytest.raises(KeyError), machine.together(fabric):
        raise KeyError("a fault")
    monkeypatch.setattr(machine, "gather", lambda _, text: [text, "another's"])
    with pytest.raises(BadInput, match="another's"), machine.together(fabric):
        pass


# ------------------------------------------------------------------------------- gradients
def scaled(scaler=None):
    return SimpleNamespace(strategy=SimpleNamespace(precision=SimpleNamespace(scaler=scaler)))


def with_gradients(first: float, second: float) -> nn.Module:
    """Two layers; the frozen third has none."""
    net = nn.Sequential(nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False), nn.Linear(3, 3))
    for layer, value in zip(net, (first, second), strict=False):
        layer.weight.grad = torch.zeros(3, 3)
        layer.weight.grad[1, 2] = value
    return net


def norm(module, loss, scaler=None):
    return machine.gradient_norm(scaled(scaler), module, loss, "epoch 3, step 7")


def test_the_norm_of_all_gradients():
    assert norm(with_gradients(3, 4), torch.tensor(1.0, requires_grad=True)).item() == 5
    assert norm(with_gradients(3, 4), 1.0).item() == 5


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_the_spoilt_parameter_is_named(value):
    with pytest.raises(FloatingPointError, match=r"^the gradient of 1\.weight is not finite at "
                                                 r"epoch 3, step 7; stopped before the update"):
        norm(with_gradients(1, value), 0.5)
    with pytest.raises(FloatingPointError, match=r"^the loss is not finite at epoch 3, step 7;"):
        norm(with_gradients(value, value), value)


def test_the_scalers_gradients_are_its_own():
    """16-mixed scales them until they overflow, and leaves such updates out."""
    assert norm(with_gradients(1, float("inf")), 1.0, object()).item() == 0
    with pytest.raises(FloatingPointError, match=r"^the loss"):
        norm(with_gradients(1, 1), float("nan"), object())


def test_gradients_whose_squares_have_no_room():
    """Each is finite, the norm is not: the update would still be nonsense after clipping."""
    with pytest.raises(FloatingPointError, match=r"^the norm of the gradient is not finite"):
        norm(with_gradients(3e38, 3e38), 1.0)
