"""What the image and Long Range Arena scripts share: which updates are stopped."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from tnn.runs import Metrics, check_finite, is_too_large


def fabric(scaler=None):
    return SimpleNamespace(strategy=SimpleNamespace(precision=SimpleNamespace(scaler=scaler)))


def with_gradients(first: float, second: float) -> nn.Module:
    """Two layers; the frozen third has none."""
    net = nn.Sequential(nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False), nn.Linear(3, 3))
    for layer, value in zip(net, (first, second), strict=False):
        layer.weight.grad = torch.zeros(3, 3)
        layer.weight.grad[1, 2] = value
    return net


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_the_spoilt_parameter_is_named(value):
    with pytest.raises(FloatingPointError, match=r"gradient of 1.weight is not finite at epoch 3, "
                                                 r"step 7; stopped before the update"):
        check_finite(fabric(), with_gradients(1, value), 0.5, 3, 7)
    with pytest.raises(FloatingPointError, match=r"^the loss is not finite at epoch 3, step 7;"):
        check_finite(fabric(), with_gradients(value, value), value, 3, 7)


def test_large_gradients_pass():
    """Each is finite, their squares are not."""
    check_finite(fabric(), with_gradients(1.4e38, 1.4e38), 1.0, 1, 0)


def test_scaled_gradients_are_the_scalers():
    check_finite(fabric(scaler=object()), with_gradients(1, float("inf")), 1.0, 1, 0)
    with pytest.raises(FloatingPointError, match="the loss"):
        check_finite(fabric(scaler=object()), with_gradients(1, 1), float("nan"), 1, 0)


def test_memory_is_told_from_other_errors():
    with pytest.raises(RuntimeError) as error:
        torch.empty(2**58)
    assert is_too_large(error.value)
    assert not is_too_large(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))


def test_a_new_run_moves_an_earlier_ones_curves(tmp_path):
    """A resumed one goes on with them."""
    for value, step, size in ((1.0, 0, 0), (2.0, 0, 0), (3.0, 1, 1000)):
        metrics = Metrics(tmp_path, step, size)
        metrics.log(step + 1, 1, loss=value)
        metrics.close()
    rows = (tmp_path / "metrics.csv").read_text().splitlines()
    assert rows == ["step,epoch,name,value", "1,1,loss,2.0", "2,1,loss,3.0"]
    assert (tmp_path / "old/metrics.csv").read_text().splitlines()[1:] == ["1,1,loss,1.0"]
    assert len(list((tmp_path / "old").glob("events*"))) == 1
