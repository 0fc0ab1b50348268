"""The pretended device finds planted bugs, and leaves what is right alone."""

import textwrap

import pytest

PLANTED = {
    "a CPU tensor (3,) beside a cuda one": """
        import torch
        torch.ones(3, device="cuda") + torch.ones(3)
        """,
    "a CPU tensor indexed with a cuda one": """
        import torch
        torch.arange(5)[torch.tensor([1, 2]).to("cuda")]
        """,
    "cuFFT has no bfloat16": """
        import torch
        try:
            torch.fft.rfft(torch.ones(8, device="cuda").bfloat16())
        except RuntimeError:
            pass
        """,
    "unsigned": """
        import torch
        try:
            torch.ones(3, dtype=torch.uint16, device="cuda") + 1
        except RuntimeError:
            pass
        """,
    "cuDNN lstm: a CPU tensor": """
        import torch
        lstm = torch.nn.LSTM(2, 3).cuda()
        lstm(torch.ones(4, 1, 2, device="cuda"), (torch.zeros(1, 1, 3), torch.zeros(1, 1, 3)))
        """,
    "cuDNN lstm: autocast makes it float16": """
        import torch
        lstm = torch.nn.LSTM(2, 3).cuda()
        with torch.autocast("cuda", dtype=torch.bfloat16):
            lstm(torch.ones(4, 1, 2, device="cuda"))
        """,
    "train=True where a gradient is not wanted": """
        import torch
        lstm, x, h = torch.nn.LSTM(2, 3).cuda(), torch.ones(4, 1, 2, device="cuda"), None
        h = torch.zeros(1, 1, 3, device="cuda")
        with torch.no_grad():
            torch.lstm(x, (h, h), lstm._flat_weights, True, 1, 0.0, True, False, False)
        """,
    "no deterministic CUDA implementation": """
        import torch
        torch.use_deterministic_algorithms(True)
        torch.ones(3, device="cuda").cumsum(0)
        """,
    "triton double: a CPU tensor": """
        import torch, triton, triton.language as tl
        @triton.jit
        def double(x, BLOCK: tl.constexpr):
            at = tl.arange(0, BLOCK)
            tl.store(x + at, 2 * tl.load(x + at))
        double[(1,)](torch.ones(4), BLOCK=4)
        """,
}
SYNCS = {
    "item()": "bool(torch.ones(1, device='cuda') > 0)",
    "tolist": "torch.ones(3, device='cuda').tolist()",
    "nonzero": "torch.ones(3, device='cuda').nonzero()",
    "boolean index": "x = torch.ones(3, device='cuda'); x[x > 0]",
    "new_tensor": "torch.ones(3, device='cuda').new_tensor([1, 2])",
    "as an index": "torch.ones(3, device='cuda')[torch.tensor([0, 2])]",
    "host to device": "torch.ones(3).to('cuda')",
    "device to host": "torch.ones(3, device='cuda').cpu()",
    "equal": "torch.equal(torch.ones(3, device='cuda'), torch.ones(3, device='cuda'))",
    "cuda.synchronize": "torch.cuda.synchronize()",
}
CLEAN = """
import copy, torch
torch.manual_seed(3); torch.cuda.manual_seed(3)
Linear, Dropout = torch.nn.Linear, torch.nn.Dropout
net = torch.nn.Sequential(Linear(4, 5), Dropout(0.5), Linear(5, 2)).cuda()
optimizer = torch.optim.AdamW(net.parameters(), fused=True)
x, state = torch.randn(3, 4, device="cuda"), torch.cuda.get_rng_state()
kept = copy.deepcopy(net.state_dict())
def update():
    loss = net(x).pow(2).mean()
    optimizer.zero_grad(); loss.backward(); optimizer.step()
    return loss
first = update()
net.load_state_dict(kept); torch.cuda.set_rng_state(state)
again = update()
z = torch.complex(torch.arange(3.0), torch.ones(3))
value = {"first": first.item(), "again": again.item(), "device": str(x.device),
         "conjugate": (z.cuda().conj() * 1).cpu().imag.tolist(),
         "draw": torch.rand(3, device="cuda").cpu().tolist(), "host": torch.rand(3).tolist()}
"""


@pytest.fixture(scope="module")
def reports(run_jobs):
    """{name: report} of all that is planted, of each sync and of what is right: one process."""
    jobs = {**{name: textwrap.dedent(code) for name, code in PLANTED.items()},
            **{name: f"import torch\n{code}" for name, code in SYNCS.items()}, "clean": CLEAN}
    found = run_jobs([{"code": code} for code in jobs.values()])
    return dict(zip(jobs, found, strict=True))


@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_bug_is_found(reports, name):
    problems = reports[name]["problems"]
    assert any(name in problem for problem in problems), reports[name]


@pytest.mark.parametrize("name", SYNCS)
def test_a_hidden_wait_is_found(reports, name):
    report = reports[name]
    assert report["error"] == ""
    assert any(name in sync for sync in report["syncs"]), report
    assert not report["problems"]


def test_what_is_right_is_left_alone(reports):
    report = reports["clean"]
    assert report["error"] == ""
    assert report["problems"] == {}
    assert report["value"]["device"] == "cuda:0"
    assert len(report["updates"]) == 2
    assert report["operations"]["_fused_adamw_"] == 2
    assert report["updates"][1][0] == report["updates"][0][0]  # an update waits for nothing


def test_the_device_draws_from_a_stream_of_its_own(reports):
    value = reports["clean"]["value"]
    assert value["conjugate"] == [-1, -1, -1]
    assert value["first"] == value["again"]  # the state was taken and put back
    assert value["draw"] != value["host"]
