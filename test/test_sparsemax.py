"""Sparsemax: golden vectors, the sorting algorithm and numerical gradients."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reference_files import golden, needs_reference

from probpose_training.sparsemax import STEPS, sparsemax, sparsemax_newton, sparsemax_sort


@needs_reference
@pytest.mark.parametrize("function", [sparsemax, sparsemax_newton, sparsemax_sort])
def test_golden(function):
    data = golden("sparsemax.npz")
    exact = data["names"] != "large_offset"  # There float32 input already rounds the differences away.
    for t, temperature in enumerate(data["temperatures"]):
        logits = torch.tensor(data["logits"], requires_grad=True)
        out = function(logits / float(temperature))
        (out * torch.tensor(data["upstream"])).sum().backward()
        found, grad = out.detach().numpy(), logits.grad.numpy()
        np.testing.assert_allclose(found[exact], data["out"][t][exact], rtol=0, atol=1e-6)
        np.testing.assert_allclose(found[~exact], data["out"][t][~exact], rtol=0, atol=3e-3)
        # On the edge of the support (a tie with tau) either side's gradient is right, and the plain operations take
        # the other one; the golden values hold for the closed form.
        if function is sparsemax:
            np.testing.assert_allclose(grad[exact], data["grad"][t][exact], rtol=0, atol=1e-5 / temperature)
    maps = function(torch.tensor(data["maps_logits"]) / 0.5).numpy()
    np.testing.assert_allclose(maps, data["maps_out"], rtol=0, atol=1e-6)
    np.testing.assert_allclose(maps.clip(0, 1), data["maps_out_clamped"], rtol=0, atol=1e-6)


@settings(deadline=None, max_examples=200)
@given(st.integers(0, 2**32 - 1), st.integers(1, 400), st.floats(-3, 3))
def test_newton_equals_sorting(seed, size, log_scale):
    random = np.random.default_rng(seed)
    logits = torch.tensor(random.standard_normal((3, size)) * 10**log_scale)
    logits = logits - logits.amax(-1, keepdim=True)  # float32 holds differences to the largest well
    found = sparsemax_newton(logits)
    torch.testing.assert_close(found.double(), sparsemax_sort(logits.float().double()), rtol=0, atol=2e-6)
    torch.testing.assert_close(found.sum(-1), torch.ones(3), rtol=0, atol=1e-5)


def families(size: int) -> torch.Tensor:
    """(rows, size): noise, tails, ramps, hills and steps, of all scales."""
    random, ramp = np.random.default_rng(0), np.arange(size) / size
    shapes = (
        random.standard_normal, random.random, lambda n: random.exponential(size=n),
        lambda n: -random.exponential(size=n), random.standard_cauchy, lambda n: -ramp,
        lambda n: -np.log1p(np.arange(n)), lambda n: -np.exp(3 * random.random(n)),
    )  # fmt: skip
    rows = [shape(size) * scale for scale in 10.0 ** np.arange(-4, 5) for shape in shapes]
    rows += [-10 * ramp**power for power in (0.2, 0.5, 2, 3, 6)]
    rows += [-5.0 * (np.arange(size) >= n) for n in (1, 2, size // 2, size)]
    for width, height in zip(random.uniform(0.005, 0.5, 50), 10 ** random.uniform(-1, 1.5, 50)):
        hill = height * np.exp(-((ramp - random.random()) ** 2) / (2 * width**2))
        rows.append(hill + random.normal(0, 10 ** random.uniform(-3, 0), size))
    logits = torch.tensor(np.array(rows))
    return (logits - logits.amax(-1, keepdim=True)).float()


@pytest.mark.parametrize("size", [3072, 1728, 2040, 1001])  # cells that groups of 16, 8 and 1 divide
def test_newton_has_a_step_to_spare(size, monkeypatch):
    logits = families(size)
    expected = sparsemax_sort(logits.double())
    monkeypatch.setattr("probpose_training.sparsemax.STEPS", STEPS - 1)
    torch.testing.assert_close(sparsemax_newton(logits).double(), expected, rtol=0, atol=2e-6)


def test_gradient_is_the_derivative():
    logits = torch.randn(4, 30, generator=torch.Generator().manual_seed(1)) / 3
    upstream = torch.randn(4, 30, generator=torch.Generator().manual_seed(2))
    logits.requires_grad_()
    (sparsemax(logits) * upstream).sum().backward()
    step = 1e-6
    base = logits.detach().double()
    for i in range(30):
        shift = torch.zeros(30, dtype=torch.float64)
        shift[i] = step
        slope = ((sparsemax_sort(base + shift) - sparsemax_sort(base - shift)) * upstream).sum(-1) / (2 * step)
        torch.testing.assert_close(logits.grad[:, i].double(), slope, rtol=0, atol=1e-5)


def test_half_precision_input_is_projected_in_float32():
    out = sparsemax(torch.randn(2, 3072, dtype=torch.bfloat16, requires_grad=True))
    assert out.dtype == torch.float32
    torch.testing.assert_close(out.sum(-1), torch.ones(2), rtol=0, atol=1e-5)
