"""Controller: moves the weight of a sparsity penalty until the mean L0 is the wanted one. Works for any penalty that more of means less L0.

A proportional-integral controller on logarithms: L0 and penalties act in ratios. Where a coder stays below the wanted L0 with no
penalty at all, and a reward can do no harm (thresholds alone hear it), the weight becomes negative. State: four numbers, kept in
checkpoints.
"""

from __future__ import annotations

from math import asinh, log, sinh

import torch

BEND = 0.02  # weights well above this share of the given one are moved in ratios, smaller ones in steps, through 0
RANGE = 6.0  # up to e^6, 400 times, of the given weight
GAIN = 150.0  # a standing error of 1 % moves the weight by e^1.5 over the whole training
MOST = 0.03  # but no faster than this a step: coders answer after some fifty steps, and a hastier controller would swing
FAST, SLOW = 10, 40  # batches over which L0 is averaged; from the two, where it is going
AHEAD = {False: 1.0, True: 4.0}  # how far ahead, in units of SLOW − FAST: thresholds answer later than activations
LEAST = -0.5  # the largest reward, as a share of the given weight
START = {False: 0.0, True: -1.6}  # a fifth of the weight first: thresholds rise faster than they fall
HOLD = 0.1  # share of the training in which only the present error counts: what L0 does then is the start's doing


class Controller:
    """`pressure` multiplies the penalty's weight. Call `observe` with each batch's mean L0. `signed`: it may become negative."""

    def __init__(self, l0: float, steps: int, *, signed: bool = False):
        self.l0 = l0
        self.rate = min(GAIN / steps, MOST)
        self.hold = round(HOLD * steps)
        self.neutral = asinh(1 / BEND)
        self.low, self.high = asinh(LEAST / BEND) if signed else 0.0, self.neutral + RANGE
        self.ahead = AHEAD[signed]
        self.state = torch.zeros(4, dtype=torch.float64)  # integral; error, averaged fast and slowly; batches seen
        self.state[0] = START[signed]

    def _foreseen(self) -> float:
        """The error where L0 is going: a penalty acts late, since thresholds move by no more than the learning rate a step."""
        _, fast, slow, _ = self.state.tolist()
        return max(-1.0, min(1.0, fast + self.ahead * (fast - slow)))

    @property
    def pressure(self) -> float:
        level = self.neutral + float(self.state[0]) + self._foreseen()
        return BEND * sinh(max(self.low, min(self.high, level)))

    def observe(self, l0: float) -> None:
        error = max(-2.0, min(2.0, log(max(l0, 1e-3) / self.l0)))
        self.state[1] += (error - self.state[1]) / FAST
        self.state[2] += (error - self.state[2]) / SLOW
        self.state[3] += 1
        if self.state[3] > self.hold:
            moved = self.state[0] + self.rate * self._foreseen()
            self.state[0] = moved.clamp(self.low - self.neutral, self.high - self.neutral)
