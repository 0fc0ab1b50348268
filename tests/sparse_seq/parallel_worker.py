"""What each of the processes of test_parallel.py does: parallel_worker.py RANK SIZE FILE."""

import sys
import warnings

import torch
import torch.distributed as dist

from sparse_seq import SparseLSTM
from sparse_seq.language_modeling.model import LanguageModel, TrainingLoss
from sparse_seq.parallel import clip_grad_norm_, distribute, full_state_dict
from tests.exits import threads_of_gloo

LAYERS = [
    {"input_size": 11, "hidden_size": 13, "blocks": 3, "density": 0.5, "wdrop": 0.4},
    {"input_size": 9, "hidden_size": 12, "blocks": 4, "density": 0.5, "bidirectional": True},
    {"input_size": 9, "hidden_size": 12, "blocks": 1, "density": 1.0},  # one process has nothing
]


def layer_outcome(settings: dict, parallel: bool) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    layer = SparseLSTM(**settings, form="sequential")
    d = 1 + layer.bidirectional
    x = torch.randn(6, 4, settings["input_size"], requires_grad=True)
    h, c = (torch.randn(d, 4, settings["hidden_size"], requires_grad=True) for _ in range(2))
    layer = distribute(layer) if parallel else layer
    torch.manual_seed(1)  # the masks
    y, (hn, cn) = layer(x, (h, c))
    (y.pow(2).sum() + hn.sin().sum() + cn.sum()).backward()
    found = {"y": y, "hn": hn, "cn": cn, "gx": x.grad, "gh": h.grad, "gc": c.grad}
    grads = {f"grad.{name}": p.grad for name, p in layer.named_parameters()}
    if parallel:
        parts = [None, None]
        dist.all_gather_object(parts, grads)
        grads = parts[0] | parts[1]
    return {name: value.detach() for name, value in (found | grads).items()}


def model_after_updates(parallel: bool) -> dict[str, torch.Tensor]:
    """A language model after some updates with dropouts, clipping and momentum."""
    torch.manual_seed(0)
    model = LanguageModel(30, 10, 15, nlayers=3, sparse_mode="sparse_all", sparse_fract=0.7,
                          emblocks=3, emdensity=0.5, wdrop=0.3, dropouth=0.2)
    if parallel:
        distribute(model)
    loss_of = TrainingLoss(model, alpha=2, beta=1)
    optimizer = torch.optim.SGD(model.parameters(), 3.0, momentum=0.5)
    words, hidden = torch.randint(30, (25, 4)), model.init_hidden(4)
    for i in range(0, 20, 5):
        optimizer.zero_grad()
        loss, _, _, hidden = loss_of(words[i:i + 5], words[i + 1:i + 6].flatten(), hidden)
        loss.backward()
        clip = clip_grad_norm_ if parallel else (
            lambda m, n: torch.nn.utils.clip_grad_norm_(m.parameters(), n))
        clip(model, 0.25)
        optimizer.step()
        hidden = [(h.detach(), c.detach()) for h, c in hidden]
    return full_state_dict(model) if parallel else model.state_dict()


def compare(parallel: dict, alone: dict, what: str) -> None:
    assert parallel.keys() == alone.keys(), what
    for name, value in alone.items():
        torch.testing.assert_close(parallel[name], value, atol=2e-6, rtol=1e-5,
                                   msg=lambda text, name=name: f"{what} {name}: {text}")


def main() -> None:
    rank, size, file = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    dist.init_process_group("gloo", init_method=f"file://{file}", rank=rank, world_size=size)
    for settings in LAYERS:
        compare(layer_outcome(settings, True), layer_outcome(settings, False), str(settings))
    compare(model_after_updates(True), model_after_updates(False), "language model")
    layer = SparseLSTM(11, 13, blocks=3, density=0.5)
    total, here = layer.n_parameters(), sum(p.numel() for p in distribute(layer).parameters())
    shares = [None] * size
    dist.all_gather_object(shares, here)
    assert sum(shares) == total, shares
    assert max(shares) < total
    dist.destroy_process_group()
    assert not threads_of_gloo()
    print(f"process {rank}: equal")


if __name__ == "__main__":
    main()
