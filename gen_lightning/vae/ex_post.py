"""A density of the latents that is fitted after training, to sample from in place of the prior."""

import hashlib
from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from sklearn.mixture import GaussianMixture
from torch import Tensor
from torch.distributions import Categorical, MixtureSameFamily, MultivariateNormal

from gen_lightning.errors import UserError
from gen_lightning.storage import fingerprint, stored
from gen_lightning.vae.module import VAEModule

Batches = Callable[[], Iterable[tuple[Tensor, ...]]]
"""Called for examples, as batches of (data, labels)."""

# Of full covariances: 10 of them take 80 MB in float64.
_MOST_DIMENSIONS = 1000

# Part of the name of what is stored: raise it when what is fitted changes.
_VERSION = 1


def aggregate_mixture(
    model: VAEModule, batches: Batches, identity: str, folder: Path, num_components: int = 10, seed: int = 0
) -> MixtureSameFamily:
    """A mixture of normals with full covariances, fitted to q(z) = E_x q(z | x) (Ghosh et al. 2020, section 4).

    By expectation maximization, on one latent of each example; of a conditional model, of the examples of all classes.
    It is stored, and fitted once for the same weights and data: from then on no examples are needed.

    Args:
        model: on the device to compute on
        batches: of the training examples, read where nothing is stored
        identity: says which examples these are
        folder: where it is stored, as gmm-DIGEST.safetensors, of the digest of model, weights and all other arguments
        num_components: normals in the mixture, at most as many as there are examples
        seed: of the latents and of where the fit starts

    Returns:
        Batch shape `[]`, event shape `[Z]`, on the model's device.

    Raises:
        UserError: the latent has more than 1,000 dimensions.
    """
    if model.latent_dim > _MOST_DIMENSIONS:
        raise UserError(
            f"A mixture with full covariances is fitted in at most {_MOST_DIMENSIONS:,} dimensions, and latent_dim is"
            f" {model.latent_dim:,}: sample with --latents prior."
        )
    what = f"{_VERSION} {num_components} {seed} {identity} {fingerprint(model.state_dict().values())} {model}"
    tensors = stored(
        folder / f"gmm-{hashlib.sha256(what.encode()).hexdigest()[:16]}.safetensors",
        lambda: fit_mixture(aggregate_latents(model, batches(), seed), num_components, seed),
    )
    weights, means, scale_trils = (tensors[name].to(model.device) for name in ("weights", "means", "scale_trils"))
    normals = MultivariateNormal(means, scale_tril=scale_trils, validate_args=False)
    return MixtureSameFamily(Categorical(probs=weights, validate_args=False), normals, validate_args=False)


def aggregate_latents(model: VAEModule, batches: Iterable[tuple[Tensor, ...]], seed: int) -> Tensor:
    """A latent of each example's posterior, `[N, Z]`, on the CPU."""
    with model.evaluating(seed):
        return torch.cat([model.posterior(*model.get_inputs(batch)).sample().cpu() for batch in batches])


def fit_mixture(latents: Tensor, num_components: int, seed: int) -> dict[str, Tensor]:
    """The weights `[M]`, means `[M, Z]` and lower Cholesky factors `[M, Z, Z]` of a mixture, fitted to `[N, Z]`."""
    mixture = GaussianMixture(num_components, covariance_type="full", random_state=seed)
    mixture.fit(latents.double().numpy())
    covariances = torch.from_numpy(mixture.covariances_)
    tensors = {
        "weights": torch.from_numpy(mixture.weights_),
        "means": torch.from_numpy(mixture.means_),
        "scale_trils": torch.linalg.cholesky(covariances),
    }
    return {name: tensor.float() for name, tensor in tensors.items()}
