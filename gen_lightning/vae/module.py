"""VAEModule: a variational autoencoder, built from an encoder, a decoder and distributions."""

from collections.abc import Callable, Sequence

import torch
from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor, nn
from torch.distributions import Distribution
from torch.optim import Optimizer

from gen_lightning.base import GenerativeModule
from gen_lightning.checks import check_range
from gen_lightning.contracts import find_datamodule
from gen_lightning.networks import find_common_num_classes
from gen_lightning.numerics import promote_to_float32
from gen_lightning.schedules import Schedule
from gen_lightning.vae.likelihoods import Likelihood
from gen_lightning.vae.objectives import Objective
from gen_lightning.vae.parts import ModelParts
from gen_lightning.vae.posteriors import DiagonalGaussian, Posterior
from gen_lightning.vae.priors import Prior, StandardNormal
from gen_lightning.vae.terms import Terms
from gen_lightning.vae.texts import refuse_different_vocabularies


class VAEModule(GenerativeModule):
    """A variational autoencoder (Kingma & Welling 2014). All values are in nats.

    If the networks are class-conditional, every distribution except the prior is conditional on the labels, int64
    `[N]` (Sohn et al. 2015, section 4.1, with p(z) for p(z | y)). Methods take the labels as `condition`, after their
    other arguments.

    Args:
        encoder: called with (data_shape, number of features); returns a network from data `[N, *data_shape]` to
            features
        decoder: called with (number of inputs, shape of the likelihood's parameters); returns a network from the
            prior's `compute_decoder_input`, by default the latents `[N, latent_dim]`, to the parameters
        likelihood: p(x | z), computed from the decoder's outputs; called with (data_shape)
        objective: objective to maximize
        optimizer: called with all parameters
        data_shape: shape of one example; the command line takes it from the data module
        posterior: q(z | x), computed from the encoder's features; called with (latent_dim)
        prior: p(z); called with (latent_dim)
        latent_dim: dimension of the latent, Z; at least 1
        schedules: schedules of the optimizer's options, by names such as `optimizer.lr`
        seed: seed of all randomness in training

    Raises:
        UserError: latent_dim is less than 1; the encoder and the decoder have different numbers of classes; the encoder
            and the likelihood have vocabularies of different sizes.
    """

    fitted_prior: Distribution | None = None
    """Distribution that replaces the prior when sampling: batch shape `[]`, event shape `[Z]`."""

    def __init__(
        self,
        encoder: Callable[[Sequence[int], int], nn.Module],
        decoder: Callable[[int, Sequence[int]], nn.Module],
        likelihood: Callable[[Sequence[int]], Likelihood],
        objective: Objective,
        optimizer: OptimizerCallable,
        data_shape: Sequence[int],
        posterior: Callable[[int], Posterior] = DiagonalGaussian,
        prior: Callable[[int], Prior] = StandardNormal,
        latent_dim: int = 40,
        schedules: dict[str, Schedule] | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(data_shape, seed, schedules)
        check_range(self, at_least=1, latent_dim=latent_dim)
        self.save_hyperparameters(logger=False)
        # Both the draws of the initial weights and the optimizer's state depend on this order of construction.
        self.posterior = posterior(latent_dim)
        self.prior = prior(latent_dim)
        self.likelihood = likelihood(self.data_shape)
        self.encoder = encoder(self.data_shape, self.posterior.num_features)
        self.decoder = decoder(self.prior.decoder_input_dim, self.likelihood.parameters_shape)
        self.num_classes = find_common_num_classes(encoder=self.encoder, decoder=self.decoder)
        refuse_different_vocabularies(encoder=self.encoder, likelihood=self.likelihood)
        self.objective = objective
        self.latent_dim = latent_dim
        self._optimizer = optimizer
        parts = ModelParts(self.data_shape, self.num_classes, self.encoder, self.decoder, self.prior, self.encode)
        self.prior.bind(parts)
        self.posterior.bind(parts)

    @property
    def levels(self) -> int | None:
        """The number of levels of a pixel if p(x) is a probability; None if it is a density."""
        return self.likelihood.levels

    @property
    def likelihood_kind(self) -> str:
        """The kind of p(x) that the bounds are of; bounds are comparable only if their kinds are equal."""
        kind = self.likelihood.kind
        return kind if self.num_classes is None else f"{kind}, given the class"

    def encode(self, x: Tensor, *condition: Tensor) -> Distribution:
        """Return q(z | x): data `[N, *data_shape]` -> batch shape `[N]`, event shape `[Z]`."""
        return self.posterior(promote_to_float32(self.encoder(self.cast(x), *condition)))

    def decode(self, z: Tensor, *condition: Tensor) -> Distribution:
        """Return p(x | z): latents `[..., N, Z]` -> batch shape `[..., N]`, event shape `[*data_shape]`."""
        return self.likelihood(self._compute_parameters(z, *condition))

    def terms(self, x: Tensor, k: int = 1, *condition: Tensor) -> Terms:
        """Return the terms of all objectives and bounds, from k latents for each example of x `[N, *data_shape]`.

        Raises:
            UserError: k is less than 1; x has another shape than the model, which would broadcast to a wrong value.
        """
        posterior, z, parameters = self._encode_and_decode(x, k, *condition)
        return self._assemble_terms(x, posterior, z, parameters)

    def log_weights(self, x: Tensor, k: int, *condition: Tensor) -> Tensor:
        """Return log p(x, z) - log q(z | x), `[k, N]`, at k samples of the posterior."""
        return self.terms(x, k, *condition).log_weights

    def elbo(self, x: Tensor, *condition: Tensor) -> Tensor:
        """Return the evidence lower bound of log p(x), `[N]`, from one latent for each example."""
        return self.terms(x, 1, *condition).elbo

    def forward(self, z: Tensor, *condition: Tensor) -> Tensor:
        """Return the likelihood's prediction for latents `[N, Z]`: `[N, *data_shape]`, by default p(x | z)'s mean."""
        return self.likelihood.predict(self.decode(z, *condition))

    def sample_latents(self, n: int) -> Tensor:
        """Return latents `[n, Z]` from the prior, or from `fitted_prior` if it is set."""
        distribution = self.prior() if self.fitted_prior is None else self.fitted_prior
        # `fitted_prior` is no submodule, so it does not move to the model's device with the model.
        return self.cast(distribution.sample(torch.Size([n])).to(self.device))

    def draw(self, n: int, *condition: Tensor) -> Tensor:
        """Return samples `[n, *data_shape]`: what the likelihood generates, by default the means of p(x | z).

        Latents are from the prior, or from `fitted_prior`.
        """
        return self.likelihood.generate(self.decode(self.sample_latents(n), *condition))

    @torch.no_grad()
    def reconstruct(self, x: Tensor, *condition: Tensor) -> Tensor:
        """Return reconstructions `[N, *data_shape]`: what the likelihood predicts at the mean of q(z | x).

        The training or evaluation mode is left as it is.
        """
        return self(self.encode(x, *condition).mean, *condition)

    def check_data(self, data: Tensor) -> None:
        """Refuse data that the model cannot be trained or evaluated on.

        Raises:
            UserError: the data have another shape than the model, or are outside the likelihood's support.
        """
        super().check_data(data)
        self.likelihood.check_data(data)

    def supports(self, data: Tensor) -> Tensor:
        """Return whether all values of a batch are in the likelihood's support, a boolean scalar."""
        return self.likelihood.supports(data)

    def on_fit_start(self) -> None:
        """Check the schedules, and initialize the likelihood from the data module before the first iteration.

        Raises:
            UserError: a schedule names an option that the optimizer does not have; the likelihood needs something that
                the data module does not offer.
        """
        super().on_fit_start()
        if self.iteration == 0:
            self.likelihood.initialize(find_datamodule(self.trainer))

    def configure_optimizers(self) -> Optimizer:
        """Return one optimizer of all parameters that are not frozen."""
        return self._optimizer([parameter for parameter in self.parameters() if parameter.requires_grad])

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Return the negative mean of the objective over the batch; under DDP, times this rank's share of the examples.

        The share is relative to the mean of the ranks, so that DDP's mean of the gradients is that over all examples.
        """
        x, *condition = self.get_inputs(batch)
        posterior, z, parameters = self._encode_and_decode(x, self.objective.num_samples, *condition)
        self.likelihood.fit(parameters.detach(), x)
        terms = self._assemble_terms(x, posterior, z, parameters)
        loss = -self.objective(terms, self.global_step).mean()
        # Lightning counts this iteration after the method has returned.
        iteration = self.global_step + 1
        scalars = {"loss": loss} | _average(terms) if self.is_logged(iteration) else {}
        self.log_iteration(scalars, iteration, len(x))
        return loss * (len(x) * len(self.batch_sizes) / sum(self.batch_sizes))

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Log the ELBO of held-out data, its rate and its distortion, whatever the objective is."""
        x, *condition = self.get_inputs(batch)
        self.log_evaluation(_average(self.terms(x, 1, *condition)), "val", len(x))

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> dict[str, Tensor]:
        """Return the ELBO of test data, its rate and its distortion, `[N]` each, whatever the objective is."""
        x, *condition = self.get_inputs(batch)
        terms = self.terms(x, 1, *condition)
        self.log_evaluation(_average(terms), "test", len(x))
        return _split_elbo(terms)

    def _encode_and_decode(self, x: Tensor, k: int, *condition: Tensor) -> tuple[Distribution, Tensor, Tensor]:
        """Return q(z | x), k samples of it `[k, N, Z]`, and the parameters of p(x | z) `[k, N, *parameters_shape]`."""
        self.check_shape(x)
        check_range(self, at_least=1, k=k)
        posterior = self.encode(x, *condition)
        z = posterior.rsample(torch.Size([k]))
        return posterior, z, self._compute_parameters(z, *condition)

    def _assemble_terms(self, x: Tensor, posterior: Distribution, z: Tensor, parameters: Tensor) -> Terms:
        return Terms(posterior, self.prior(), z, self.likelihood(parameters).log_prob(x))

    def _compute_parameters(self, z: Tensor, *condition: Tensor) -> Tensor:
        """Return the parameters of p(x | z): latents `[..., N, Z]` -> `[..., N, *parameters_shape]`."""
        inputs = self.prior.compute_decoder_input(self.cast(z))
        labels = (part.expand(z.shape[:-1]).reshape(-1) for part in condition)
        parameters = promote_to_float32(self.decoder(inputs.reshape(-1, inputs.shape[-1]), *labels))
        return parameters.unflatten(0, z.shape[:-1])


def _split_elbo(terms: Terms) -> dict[str, Tensor]:
    """Return the ELBO, which is -(distortion + rate) (Alemi et al. 2018), its two parts, and the rate of each layer."""
    rates = {f"rate/{number}": rate for number, rate in enumerate(terms.rates, 1)}
    return {"elbo": terms.elbo, "rate": terms.kl, "distortion": -terms.log_likelihood.mean(0)} | rates


def _average(terms: Terms) -> dict[str, Tensor]:
    return {name: values.mean() for name, values in _split_elbo(terms).items()}
