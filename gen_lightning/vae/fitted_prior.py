"""A Gaussian mixture that is fitted to the latents of a trained VAE and replaces the prior when sampling."""

import hashlib
from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from sklearn.mixture import GaussianMixture
from torch import Tensor
from torch.distributions import Categorical, MixtureSameFamily, MultivariateNormal

from gen_lightning.errors import UserError
from gen_lightning.storage import fingerprint, load_or_compute
from gen_lightning.vae.module import VAEModule

Batches = Callable[[], Iterable[tuple[Tensor, ...]]]
"""Returns the examples in batches of (data, labels)."""

# Memory: at 1,000 dimensions, 10 full covariances take 80 MB in float64.
_MAX_LATENT_DIM = 1000

# Part of the file's name. Raise it when the fit changes.
_VERSION = 1


def fit_latent_mixture(
    model: VAEModule, batches: Batches, identity: str, folder: Path, num_components: int = 10, seed: int = 0
) -> MixtureSameFamily:
    """Fit a mixture of full-covariance normals to q(z) = E_x q(z | x) (Ghosh et al. 2020, section 4).

    The fit is expectation maximization on one latent of each example. For a class-conditional model, the examples of
    all classes are pooled. The mixture is stored; with the same weights, data and arguments it is read from the file,
    and `batches` is not called.

    Args:
        model: VAE, on the device to compute on
        batches: function that returns the training examples
        identity: text that identifies the training examples
        folder: directory of the stored mixture, gmm-DIGEST.safetensors; the digest covers the model, its weights and
            all other arguments
        num_components: number of normals in the mixture; at most the number of examples
        seed: seed of the latents and of the start of the fit

    Returns:
        Mixture with batch shape `[]` and event shape `[Z]`, on the model's device.

    Raises:
        UserError: the latent has more than 1,000 dimensions, or the stored file is no mixture.
    """
    if model.latent_dim > _MAX_LATENT_DIM:
        raise UserError(
            f"`VAEModule.latent_dim` is {model.latent_dim:,}, and the mixture is fitted in at most"
            f" {_MAX_LATENT_DIM:,} dimensions. Sample with --latents prior."
        )
    z = model.latent_dim
    described = f"{_VERSION} {num_components} {seed} {identity} {fingerprint(model.state_dict().values())} {model}"
    path = folder / f"gmm-{hashlib.sha256(described.encode()).hexdigest()[:16]}.safetensors"
    tensors = load_or_compute(
        path,
        lambda: fit_mixture(infer_latents(model, batches(), seed), num_components, seed),
        {"weights": (num_components,), "means": (num_components, z), "scale_trils": (num_components, z, z)},
    )
    weights, means, scale_trils = (tensors[name].to(model.device) for name in ("weights", "means", "scale_trils"))
    finite = all(tensor.isfinite().all() for tensor in (weights, means, scale_trils))
    if not finite or weights.min() < 0 or weights.sum() == 0:
        raise UserError(f"{path} does not hold a mixture. Remove it.")
    normals = MultivariateNormal(means, scale_tril=scale_trils, validate_args=False)
    return MixtureSameFamily(Categorical(probs=weights, validate_args=False), normals, validate_args=False)


def infer_latents(model: VAEModule, batches: Iterable[tuple[Tensor, ...]], seed: int) -> Tensor:
    """Return one sample of each example's posterior, `[N, Z]`, on the CPU."""
    with model.evaluating(seed):
        return torch.cat([model.encode(*model.get_inputs(batch)).sample().cpu() for batch in batches])


def fit_mixture(latents: Tensor, num_components: int, seed: int) -> dict[str, Tensor]:
    """Return the mixture that is fitted to latents `[N, Z]`.

    Returns:
        `weights` `[M]`, `means` `[M, Z]` and `scale_trils` `[M, Z, Z]`, the lower Cholesky factors of the covariances.
    """
    mixture = GaussianMixture(num_components, covariance_type="full", random_state=seed)
    mixture.fit(latents.double().numpy())
    covariances = torch.from_numpy(mixture.covariances_)
    tensors = {
        "weights": torch.from_numpy(mixture.weights_),
        "means": torch.from_numpy(mixture.means_),
        "scale_trils": torch.linalg.cholesky(covariances),
    }
    return {name: tensor.float() for name, tensor in tensors.items()}
