"""fairseq's Adam and its norm of all gradients on a GPU in a few operations an update, in place of
some for each parameter; and what its mixed precision forgets when it saves.

fairseq looks for NVIDIA's apex to compute these, and warns that it is not there. On a CPU the two
are fairseq's own, and Adam is so for half precision, sparse gradients and amsgrad too. Importing
this module changes fairseq once.
"""

import math

import torch
from fairseq import utils
from fairseq.optim.adam import Adam
from fairseq.optim.fp16_optimizer import FP16Optimizer
from torch import Tensor


@torch.no_grad()
def step(self: Adam, closure=None):
    """Adam.step. Returns the closure's loss, if any."""
    params = [p for group in self.param_groups for p in group["params"] if p.grad is not None]
    plain = all(p.is_cuda and p.dtype == torch.float32 and p.grad.dtype == torch.float32
                and not p.grad.is_sparse for p in params)
    if not plain or any(group["amsgrad"] for group in self.param_groups):
        return fairseq_step(self, closure)
    loss = None if closure is None else closure()
    for group in self.param_groups:
        together: dict[int, list] = {}
        for p in group["params"]:
            if p.grad is not None:
                state = self.state[p]
                if not state:
                    state.update(step=0, exp_avg=torch.zeros_like(p),
                                 exp_avg_sq=torch.zeros_like(p))
                state["step"] += 1
                together.setdefault(state["step"], []).append(p)
        for count, same in together.items():  # nearly always one: all have seen as many steps
            at_once(same, [self.state[p] for p in same], group, count)
    return loss


def at_once(params: list, states: list[dict], group: dict, count: int) -> None:
    """Update number `count` of these parameters. The weights decay before the step, and eps is
    added to the root that is not corrected, as fairseq has it."""
    grads = [p.grad for p in params]
    means, squares = ([state[name] for state in states] for name in ("exp_avg", "exp_avg_sq"))
    (beta1, beta2), lr = group["betas"], group["lr"]
    torch._foreach_mul_(means, beta1)
    torch._foreach_add_(means, grads, alpha=1 - beta1)
    torch._foreach_mul_(squares, beta2)
    torch._foreach_addcmul_(squares, grads, grads, value=1 - beta2)
    roots = torch._foreach_sqrt(squares)
    torch._foreach_add_(roots, group["eps"])
    if group["weight_decay"]:
        torch._foreach_add_(params, params, alpha=-group["weight_decay"] * lr)
    size = lr * math.sqrt(1 - beta2 ** count) / (1 - beta1 ** count)
    torch._foreach_addcdiv_(params, means, roots, value=-size)


def total_norm(grads: list[Tensor], chunk_size: int = 0) -> Tensor:
    """The norm of all gradients, in float32."""
    if all(grad.is_cuda for grad in grads):
        norms = torch._foreach_norm(grads, dtype=torch.float32)
        return torch.linalg.vector_norm(torch.stack(norms))
    return torch.norm(torch.stack([torch.norm(g, p=2, dtype=torch.float32) for g in grads]))


# --bf16 and --fp16 update float32 copies of the weights. fairseq saves the rounded weights alone
# and makes the copies of them anew: a resumed run would have lost every update since the last one
# that changed the rounded number.
def master_weights(self: FP16Optimizer) -> list[Tensor]:
    """The float32 copies: one for each parameter, or (--fp16) one flat one for each device."""
    kept = self.fp32_params
    return [p.detach() for p in (kept.values() if isinstance(kept, dict) else kept)]


def state_dict(self: FP16Optimizer) -> dict:
    """fairseq's, and the float32 copies."""
    return fairseq_state_dict(self) | {"fp32_params": master_weights(self)}


def load_state_dict(self: FP16Optimizer, state: dict, optimizer_overrides=None) -> None:
    """fairseq's, and the float32 copies, which checkpoints of fairseq itself do not hold."""
    fairseq_load_state_dict(self, state, optimizer_overrides)
    if "fp32_params" in state:
        for mine, saved in zip(master_weights(self), state["fp32_params"], strict=True):
            mine.copy_(saved)


def in_pairs(self: FP16Optimizer) -> list[tuple[Tensor, Tensor]]:
    """(weight, its float32 copy) of all that is trained, if one operation serves all: on a GPU,
    where the copies are not flat. Else nothing."""
    if self.has_flat_params or not all(p.is_cuda for p in self.fp16_params):
        return []
    return [(p, wide) for p, wide in zip(self.fp16_params, self.fp32_params, strict=True)
            if p.requires_grad]


def gradients_to_float32(self: FP16Optimizer) -> None:
    """From the weights to their copies."""
    pairs = in_pairs(self)
    if not pairs:
        return fairseq_gradients(self)
    if self._needs_sync and all(p.grad is not None and wide.grad is not None for p, wide in pairs):
        torch._foreach_copy_([wide.grad for _, wide in pairs], [p.grad for p, _ in pairs])
        self._needs_sync = False
    return fairseq_gradients(self)


@torch.no_grad()
def weights_from_float32(self: FP16Optimizer) -> None:
    """From the copies to the weights."""
    pairs = in_pairs(self)
    if not pairs:
        return fairseq_weights(self)
    return torch._foreach_copy_([p for p, _ in pairs], [wide for _, wide in pairs])


def zero_grad(self: FP16Optimizer) -> None:
    """fairseq's, which is left to zero what has no copy beside others."""
    wide = [p for p in self.fp32_params if p.grad is not None] if in_pairs(self) else []
    grads = [p.grad for p in wide]
    for p in wide:
        p.grad = None
    fairseq_zero_grad(self)
    if grads:
        torch._foreach_zero_(grads)
    for p, grad in zip(wide, grads, strict=True):
        p.grad = grad


fairseq_gradients = FP16Optimizer._sync_fp16_grads_to_fp32
fairseq_weights, fairseq_zero_grad = (
    FP16Optimizer._sync_fp32_params_to_fp16, FP16Optimizer.zero_grad)
FP16Optimizer._sync_fp16_grads_to_fp32 = gradients_to_float32
FP16Optimizer._sync_fp32_params_to_fp16 = weights_from_float32
FP16Optimizer.zero_grad = zero_grad
fairseq_state_dict, FP16Optimizer.state_dict = FP16Optimizer.state_dict, state_dict
fairseq_load_state_dict, FP16Optimizer.load_state_dict = (
    FP16Optimizer.load_state_dict, load_state_dict)
fairseq_step, Adam.step = Adam.step, step
utils.multi_tensor_l2norm_available, utils.multi_tensor_total_norm = True, total_norm
