"""Reference: the clean pass's next-token distributions, which all other passes over the same tokens are held against."""

from __future__ import annotations

import torch

from assay.shapes import Bool, Float, Int, Tensor

SOFTMAX_ENTRIES = 2**22  # fp32 log-probabilities held at once


class Reference:
    """Next-token distributions of the clean pass at each counted position, kept for all passes that are held against them."""

    def __init__(self, clean: Float[Tensor, "b s v"], tokens: Int[Tensor, "b s"], counted: Bool[Tensor, "b s"]):
        self.places = counted.nonzero().split(max(1, SOFTMAX_ENTRIES // clean.shape[-1]))
        self.targets = [tokens[place[:, 0], place[:, 1] + 1][:, None] for place in self.places]
        logs = [clean[place[:, 0], place[:, 1]].float().log_softmax(-1) for place in self.places]
        self.ce = [-log.gather(1, target)[:, 0] for log, target in zip(logs, self.targets)]
        self.negentropy = []
        for log in logs:  # in place: from here on the clean *probabilities* are what is kept
            chance = log.exp()
            self.negentropy.append(torch.linalg.vecdot(chance, log))
            log.copy_(chance)
        self.chances = logs

    def losses(self, logits: Float[Tensor, "b s v"] | None) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"]]:
        """(cross-entropy, KL(clean ‖ other)) at each counted position, fp32 nats, of other logits; None means the clean ones."""
        if not self.places:
            return torch.zeros(0), torch.zeros(0)
        if logits is None:
            return torch.cat(self.ce), torch.zeros_like(torch.cat(self.ce))
        ces, kls = [], []
        for place, target, chance, negentropy in zip(self.places, self.targets, self.chances, self.negentropy):
            log = logits[place[:, 0], place[:, 1]].float()
            log -= log.logsumexp(-1, keepdim=True)
            ces.append(-log.gather(1, target)[:, 0])
            kls.append((negentropy - torch.linalg.vecdot(chance, log)).clamp_min(0.0))  # rounding may fall below 0
        return torch.cat(ces), torch.cat(kls)
