"""
A Gaussian process over candidates that are scored on single documents.

The fitness of candidate x on document j is modelled as o_j + f(x) + g_j(x): what the document is
like, what the candidate is worth, and how much this document likes it; f and the g_j share a
Matern-5/2 kernel with one length a coordinate. The search wants f. Lengths and variances are the
most probable ones under log-normal priors (Rasmussen & Williams 2006, chapters 4 and 5).

Shapes: N observations, M points, D coordinates; float64 on the CPU.
"""

import contextlib
import math

import numpy as np
import torch
from scipy.optimize import minimize

OFFSET = 25.0  # prior variance of o_j, in variances of the observations
JITTER = 1e-6
PRIOR_WIDTH = 0.7  # of log length and of the log deviations
ITERATIONS = 12  # of L-BFGS, a fit


@contextlib.contextmanager
def _one_thread():
    """Small matrices are slower on many threads, and their last digits depend on how many."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


class GaussianProcess:
    """Fits observations and predicts f."""

    def __init__(self, coordinates: int, length: float) -> None:
        """`length`: the most probable length before anything is seen, in units of the points."""
        start = [math.log(length)] * coordinates + [0.0, math.log(0.3), math.log(0.02)]
        self._prior = torch.tensor(start, dtype=torch.float64)
        self._theta = self._prior.clone()  # log of: lengths, sd of f, sd of g in those of f, noise

    @_one_thread()
    def fit(
        self, points_ND: np.ndarray, samples_N: np.ndarray, values_N: np.ndarray, tune: bool
    ) -> None:
        """Take in all observations; with `tune`, find lengths and variances again.

        Raises torch.linalg.LinAlgError where their covariance is not positive definite. Noise and
        `JITTER` on its diagonal keep it so, as long as points and values are finite.
        """
        self._points = torch.tensor(points_ND, dtype=torch.float64)
        self._samples = torch.tensor(samples_N)
        self._mean, self._scale = float(np.median(values_N)), float(np.std(values_N)) or 1.0
        values = torch.tensor((values_N - self._mean) / self._scale, dtype=torch.float64)
        if tune:
            self._tune(values)
        with torch.no_grad():
            self._root = torch.linalg.cholesky(self._covariance(self._theta))
            self._weights = torch.cholesky_solve(values[:, None], self._root)

    @_one_thread()
    @torch.no_grad()
    def predict(self, points_MD: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Mean and standard deviation of f (M,), up to one constant, in the unit of the values."""
        points = torch.tensor(points_MD, dtype=torch.float64)
        cross = self._kernel(points, self._points, self._theta)
        mean = (cross @ self._weights)[:, 0]
        part = torch.linalg.solve_triangular(self._root, cross.T, upper=False)
        variance = torch.exp(2 * self._theta[-3]) - (part**2).sum(0)
        return (
            (mean * self._scale).numpy(),
            (variance.clamp_min(1e-10).sqrt() * self._scale).numpy(),
        )

    def _tune(self, values: torch.Tensor) -> None:
        def surprise(theta: np.ndarray) -> tuple[float, np.ndarray]:
            """-log of the posterior density, and its gradient."""
            log = torch.tensor(theta, requires_grad=True)
            root, failed = torch.linalg.cholesky_ex(self._covariance(log))
            if failed:
                return 1e9, np.zeros_like(theta)
            white = torch.linalg.solve_triangular(root, values[:, None], upper=False)
            value = 0.5 * (white**2).sum() + root.diagonal().log().sum()
            value = value + (((log - self._prior) / PRIOR_WIDTH) ** 2).sum() / 2
            value.backward()
            return value.item(), log.grad.numpy()

        start, limit = self._theta.numpy(), {"maxiter": ITERATIONS}
        found = minimize(surprise, start, jac=True, method="L-BFGS-B", options=limit)
        if np.isfinite(found.x).all():
            self._theta = torch.tensor(found.x)

    def _covariance(self, theta: torch.Tensor) -> torch.Tensor:
        same = (self._samples[:, None] == self._samples[None]).double()
        kernel = self._kernel(self._points, self._points, theta)
        noise = (torch.exp(2 * theta[-1]) + JITTER) * torch.eye(len(same), dtype=torch.float64)
        return kernel * (1 + torch.exp(2 * theta[-2]) * same) + OFFSET * same + noise

    def _kernel(self, one: torch.Tensor, other: torch.Tensor, theta: torch.Tensor) -> torch.Tensor:
        lengths = torch.exp(theta[:-3])
        one, other = one / lengths, other / lengths
        squared = (one**2).sum(1)[:, None] + (other**2).sum(1)[None] - 2 * one @ other.T
        distance = (5 * squared.clamp_min(0) + 1e-12).sqrt()
        shape = (1 + distance + distance**2 / 3) * torch.exp(-distance)
        return torch.exp(2 * theta[-3]) * shape
