"""Mixup (Zhang et al. 2018) and CutMix (Yun et al. 2019) as in timm 0.4.12. timm's own has since
changed the boxes of CutMix: an odd side is no longer rounded down.

Notation: b batch, c channels, h x w pixels, k classes.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import one_hot


@dataclass
class Mixup:
    """Images (b, c, h, w), changed in place, and labels (b,) -> images and soft targets (b, k).

    An image's partner is the one as far from the batch's end as it is from its beginning. `mode`
    says what shares a mixing weight: the batch, a pair of partners, or nothing (elem). Random
    numbers come from numpy's global generator. Raises ValueError for an odd batch.
    """

    mixup_alpha: float = 0.8
    cutmix_alpha: float = 1.0
    cutmix_minmax: tuple[float, float] | None = None  # overrules cutmix_alpha
    prob: float = 1.0
    switch_prob: float = 0.5
    mode: str = "batch"
    label_smoothing: float = 0.1
    num_classes: int = 1000

    def __call__(self, x: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        b = len(x)
        if b % 2:
            raise ValueError(f"mixup pairs the images of a batch, and {b} is odd")
        if self.mode == "batch":
            lam, use_cutmix = self._draw_for_batch()
            weights = x.new_full((), self._mix(x, x.flip(0), lam, use_cutmix))
        elif self.mode == "pair":
            weights = self._mix_each(x, b // 2, both=True)
            weights = torch.cat([weights, weights.flip(0)])[:, None]
        else:
            weights = self._mix_each(x, b, both=False)[:, None]
        if x.is_cuda:  # a copy that nobody waits for
            weights = weights if weights.is_cuda else weights.pin_memory()
        return x, self._targets(labels, weights.to(x, non_blocking=x.is_cuda))

    def _mix_each(self, x, count, both):
        lams, use_cutmix = self._draw_for_each(count)
        partners = x.flip(0)
        for i in range(count):
            if both:  # the partner gets the same weight and the same box
                rows = slice(i, len(x) - i, len(x) - 1 - 2 * i)
                lams[i] = self._mix(x[rows], partners[rows], lams[i], use_cutmix[i])
            else:
                lams[i] = self._mix(x[i:i + 1], partners[i:i + 1], lams[i], use_cutmix[i])
        return torch.from_numpy(lams)

    def _mix(self, x, partner, lam, use_cutmix):
        """Mixes x in place; returns the weight that x keeps."""
        if lam == 1:
            return 1.0
        if not use_cutmix:
            x.copy_(x * float(lam) + partner * float(1 - lam))
            return float(lam)
        h, w = x.shape[-2:]
        top, bottom, left, right = self._box(h, w, lam)
        x[..., top:bottom, left:right] = partner[..., top:bottom, left:right]
        return 1 - (bottom - top) * (right - left) / (h * w)

    def _box(self, h, w, lam):
        """top, bottom, left, right; up to 1 - lam of the area where nothing sticks out."""
        draw = np.random.randint
        if self.cutmix_minmax is not None:
            low, high = self.cutmix_minmax
            height = draw(int(h * low), int(h * high))
            width = draw(int(w * low), int(w * high))
            top, left = draw(0, h - height), draw(0, w - width)
            return top, top + height, left, left + width
        side = np.sqrt(1 - lam)
        height, width = int(h * side), int(w * side)
        y, x = draw(0, h), draw(0, w)
        return (max(y - height // 2, 0), min(y + height // 2, h),
                max(x - width // 2, 0), min(x + width // 2, w))

    def _draw_for_batch(self):
        if np.random.rand() >= self.prob:
            return 1.0, False
        mixup, cutmix = self._alphas()
        use_cutmix = np.random.rand() < self.switch_prob if mixup and cutmix else not mixup
        alpha = cutmix if use_cutmix else mixup
        return float(np.random.beta(alpha, alpha)), use_cutmix

    def _draw_for_each(self, count):
        mixup, cutmix = self._alphas()
        if mixup and cutmix:
            use_cutmix = np.random.rand(count) < self.switch_prob
            lams = np.where(use_cutmix, np.random.beta(cutmix, cutmix, count),
                            np.random.beta(mixup, mixup, count))
        else:
            use_cutmix = np.full(count, not mixup)
            lams = np.random.beta(mixup or cutmix, mixup or cutmix, count)
        lams = np.where(np.random.rand(count) < self.prob, lams.astype(np.float32),
                        np.float32(1))
        return lams, use_cutmix

    def _alphas(self):
        return self.mixup_alpha, 1.0 if self.cutmix_minmax is not None else self.cutmix_alpha

    def _targets(self, labels, weights):
        hard = one_hot(labels.long(), self.num_classes).to(weights.dtype)
        smooth = hard * (1 - self.label_smoothing) + self.label_smoothing / self.num_classes
        return smooth * weights + smooth.flip(0) * (1 - weights)
