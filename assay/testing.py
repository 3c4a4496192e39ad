"""Public contract checks: run them on your own architecture, as our test suite does on every registered one.

    from assay.testing import CODER_CHECKS
    @pytest.mark.parametrize("check", CODER_CHECKS, ids=lambda c: c.__name__)
    def test_contract(check): check(lambda seed: MyCoder(MyConfig(d_in=16, d_sae=32), seed=seed))

Each check takes a maker `make(seed) -> coder` and raises AssertionError where the contract is broken.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from assay.coders.base import Batch, SparseCoder, Step
from assay.coders.latents import Latents
from assay.formats import native
from assay.randomness import generator
from assay.shapes import Tensor
from assay.train import TrainConfig, train
from assay.training.optim import Adam

Make = Callable[[int], SparseCoder[Any]]


def toy_batch(coder: SparseCoder[Any], n: int = 256, name: object = 0) -> Batch:
    """Correlated vectors with a mean, of the coder's widths, scaled to E‖x‖² = 1."""
    random = generator("toy batch", name, coder.d_in, coder.d_out)
    mix = torch.randn(coder.d_in, coder.d_in, generator=generator("toy mix", coder.d_in)) / coder.d_in**0.5
    x = torch.randn(n, coder.d_in, generator=random) @ mix + 0.3
    x = x / x.square().sum(1).mean().sqrt()
    if coder.d_in == coder.d_out:
        return Batch.of(x)
    return Batch(x, x @ torch.randn(coder.d_in, coder.d_out, generator=generator("toy map")) / coder.d_in**0.5)


def ready(make: Make, seed: int = 0, steps: int = 20) -> SparseCoder[Any]:
    """A coder that has seen some data, in training mode."""
    coder = make(seed).train()
    coder.initialise(toy_batch(coder))
    parameters = [p for p in coder.parameters() if p.requires_grad] if coder.trained else []
    if parameters:
        optimiser = Adam(parameters, 1e-3)
        for i in range(steps):
            batch = toy_batch(coder, name=i)
            optimiser.zero_grad()
            torch.stack(
                [t.reshape(()) for t in coder.loss(batch, coder.encode(batch.x), Step(i / steps)).values()]
            ).sum().backward()
            coder.constrain_gradient()
            optimiser.step()
            coder.constrain()
    return coder


def check_shapes(make: Make) -> None:
    """Any leading axes go in and come out."""
    coder = ready(make).eval()
    for lead in [(), (3,), (2, 5)]:
        x = torch.randn(*lead, coder.d_in, generator=generator("shapes"))
        code = coder.encode(x)
        assert code.z.shape == (*lead, coder.d_sae), f"z has shape {tuple(code.z.shape)} for input {tuple(x.shape)}"
        assert coder.decode(code).shape == (*lead, coder.d_out)


def check_affine_decode(make: Make) -> None:
    """x̂ = base + scale · (z @ W_dec), with the given latents and with others."""
    coder = ready(make).eval()
    if not coder.linear:
        return
    code = coder.encode(toy_batch(coder).x)
    for some in (code, code.with_latents(torch.rand(code.latents.shape, generator=generator("affine")))):
        by_law = some.base + some.scale * (some.z @ coder.W_dec)
        torch.testing.assert_close(coder.decode(some), by_law, rtol=1e-4, atol=1e-5)


def check_latents_agree(make: Make) -> None:
    """Dense and sparse views of a code tell the same: L0, firing counts."""
    coder = ready(make)
    for mode in (coder.train(), coder.eval()):
        code = mode.encode(toy_batch(coder).x)
        dense = Latents.from_dense(code.z)
        assert torch.equal(code.latents.firing(), dense.firing())
        assert torch.equal(code.latents.l0(), dense.l0())
        assert (code.z >= 0).all(), "latents must not be negative"


def check_eval_ignores_batch(make: Make) -> None:
    """In eval mode a vector's code does not depend on its neighbours."""
    coder = ready(make).eval()
    x = toy_batch(coder).x
    alone = torch.stack([coder.encode(row[None]).z[0] for row in x[:16]])
    torch.testing.assert_close(coder.encode(x).z[:16], alone, rtol=1e-4, atol=1e-5)


def check_gradients_reach(make: Make) -> None:
    """The loss reaches every trainable parameter, also those of dead latents when they are declared dead."""
    coder = ready(make)
    if not coder.trained:
        return
    batch, dead = toy_batch(coder), torch.zeros(coder.d_sae, dtype=torch.bool)
    dead[::3] = True
    terms = coder.loss(batch, coder.encode(batch.x), Step(1.0, dead))
    torch.stack([t.reshape(()) for t in terms.values()]).sum().backward()
    for name, p in coder.named_parameters():
        assert p.grad is not None, f"no gradient reaches {name}"
        assert p.grad.abs().sum() > 0, f"the gradient of {name} is zero"
        assert torch.isfinite(p.grad).all(), f"the gradient of {name} is not finite"


def check_save_load(make: Make) -> None:
    """What is saved is what is loaded, bit for bit, and works alike."""
    coder = ready(make).eval()
    with tempfile.TemporaryDirectory() as place:
        native.write(coder, Path(place))
        twin = native.read(Path(place))
    x = toy_batch(coder).x
    assert torch.equal(coder(x), twin(x))
    for name, value in coder.state_dict().items():
        assert torch.equal(value, twin.state_dict()[name]), name


def check_rescale(make: Make) -> None:
    """A coder of scaled activations, rescaled, is the same coder of unscaled ones."""
    coder = ready(make).eval()
    x = toy_batch(coder).x
    with torch.no_grad():
        before, scale = coder(x), 3.0
        twin = coder.clone()
        twin.rescale(scale, scale)
        torch.testing.assert_close(twin(x / scale) * scale, before, rtol=1e-4, atol=1e-4)
        assert torch.equal(twin.encode(x / scale).latents.fired(), coder.encode(x).latents.fired())


def check_folded(make: Make) -> None:
    """The folded form reconstructs the same."""
    coder = ready(make).eval()
    x = toy_batch(coder).x
    torch.testing.assert_close(coder.folded().eval()(x), coder(x), rtol=1e-4, atol=1e-5)


def check_seeded(make: Make) -> None:
    """The seed decides the start, and nothing else does."""
    a, b, c = (make(s).state_dict() for s in (0, 0, 1))
    assert all(torch.equal(a[k], b[k]) for k in a)
    random = [k for k in a if a[k].is_floating_point() and a[k].numel() > 1 and a[k].std() > 0]
    if make(0).trained:
        assert any(not torch.equal(a[k], c[k]) for k in random), "another seed gives the same start"


class _Toy:
    """A source of toy batches for one coder."""

    tokens = None
    fingerprint = "toy"

    def __init__(self, coder: SparseCoder[Any]):
        self.coder, self.d_in, self.d_out = coder, coder.d_in, coder.d_out

    def batches(self, size: int, seed: int, start: int = 0) -> Any:
        while True:
            yield toy_batch(self.coder, size, (seed, start))
            start += 1

    def held_out(self, size: int) -> Batch:
        return toy_batch(self.coder, size, "held out")

    def describe(self) -> dict[str, Any]:
        return {"kind": "toy"}


def check_resume(make: Make) -> None:
    """Stopped after any step and resumed, training ends in the same bits."""
    cfg = TrainConfig(tokens=64 * 12, batch=64, log_every=1, checkpoint_seconds=0, dead_after=128)
    whole, half = make(0), make(0)
    list(train({"c": whole}, _Toy(whole), cfg))
    with tempfile.TemporaryDirectory() as place:
        checkpoint = Path(place) / "checkpoint.safetensors"
        rows = train({"c": half}, _Toy(half), cfg, resume=checkpoint)
        while next(rows).step < 5:
            pass
        rows.close()
        again = make(0)
        list(train({"c": again}, _Toy(again), cfg, resume=checkpoint))
    for name, value in whole.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), f"{name} differs after resuming"


def check_dtype_device(make: Make) -> None:
    """State moves with `.to(...)`: no tensor stays behind."""
    coder = ready(make).to(torch.float64).eval()
    x: Tensor = toy_batch(coder).x.double()
    assert coder(x).dtype == torch.float64


CODER_CHECKS = [
    check_shapes, check_affine_decode, check_latents_agree, check_eval_ignores_batch, check_gradients_reach, check_save_load,
    check_rescale, check_folded, check_seeded, check_resume, check_dtype_device,
]  # fmt: skip
