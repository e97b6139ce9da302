"""VAEModule: distributions in, a bound out."""

from collections.abc import Callable, Iterator, Sequence

import torch
from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor, nn
from torch.distributions import Distribution
from torch.optim import Optimizer

from gen_lightning.base import GenerativeModule
from gen_lightning.errors import UserError
from gen_lightning.networks import common_num_classes
from gen_lightning.numerics import promote_to_float32
from gen_lightning.schedules import Schedule
from gen_lightning.vae.likelihoods import Likelihood
from gen_lightning.vae.objectives import Objective
from gen_lightning.vae.posteriors import DiagonalGaussian, Posterior
from gen_lightning.vae.priors import Prior, StandardNormal
from gen_lightning.vae.terms import Terms


class VAEModule(GenerativeModule):
    """A variational autoencoder (Kingma & Welling 2014). All values are in nats.

    Where its networks are conditional, every distribution but the prior is one given the labels too, int64 `[N]`, which
    methods take behind their other arguments as `condition` (Sohn et al. 2015, section 4.1, with p(z) for p(z | y)).

    Args:
        encoder: called with (data_shape, number of features): data `[N, *data_shape]` -> features
        decoder: called with (latent_dim, shape of the likelihood's parameters): latents `[N, latent_dim]`, or what the
            prior's `decoded` makes of them -> parameters
        likelihood: p(x | z), of the decoder's outputs; called with (data_shape)
        objective: what is maximized
        optimizer: called with all parameters
        data_shape: the shape of one example; the command line takes it from the data module
        posterior: q(z | x), of the encoder's features; called with (latent_dim)
        prior: p(z); called with (latent_dim)
        latent_dim: the dimension of the latent, Z
        schedules: of the optimizer's options, by names such as `optimizer.lr`
        seed: of all randomness in training

    Raises:
        UserError: latent_dim is less than 1; the encoder and the decoder are conditional on other numbers of classes.
    """

    ex_post: Distribution | None = None
    """What samples are decoded from in place of the prior: batch shape `[]`, event shape `[Z]`."""

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
        if latent_dim < 1:
            raise UserError(f"latent_dim is {latent_dim}: choose 1 or more.")
        self.save_hyperparameters(logger=False)
        # Underscored where a method of the public face has the name.
        self._posterior = posterior(latent_dim)
        self._prior = prior(latent_dim)
        self._likelihood = likelihood(self.data_shape)
        self.encoder = encoder(self.data_shape, self._posterior.num_features)
        self.decoder = decoder(self._prior.decoder_input_dim, self._likelihood.parameters_shape)
        self.num_classes = common_num_classes(encoder=self.encoder, decoder=self.decoder)
        self.objective = objective
        self.latent_dim = latent_dim
        self._optimizer = optimizer
        self._prior.bind(self)
        self._posterior.bind(self)

    @property
    def levels(self) -> int | None:
        """The levels of a pixel that p(x) is a probability of; None where it is a density."""
        return self._likelihood.levels

    @property
    def likelihood_kind(self) -> str:
        """Of what its bounds are: only those of the same kind are comparable."""
        kind = "a density" if self.levels is None else f"a probability of {self.levels} levels"
        return kind if self.num_classes is None else f"{kind}, given the class"

    def posterior(self, x: Tensor, *condition: Tensor) -> Distribution:
        """q(z | x): data `[N, *data_shape]` -> batch shape `[N]`, event shape `[Z]`."""
        return self._posterior(promote_to_float32(self.encoder(x, *condition)))

    def likelihood(self, z: Tensor, *condition: Tensor) -> Distribution:
        """p(x | z): latents `[..., N, Z]` -> batch shape `[..., N]`, event shape `[*data_shape]`."""
        return self._likelihood(self._decode(z, *condition))

    def prior(self) -> Distribution:
        """p(z): batch shape `[]`, event shape `[Z]`."""
        return self._prior()

    def terms(self, x: Tensor, k: int = 1, *condition: Tensor) -> Terms:
        """What every objective and bound is made of, from k latents for each example of x `[N, *data_shape]`.

        Raises:
            UserError: k is less than 1; x has another shape, which would be broadcast to a wrong value.
        """
        posterior, z, parameters = self._pass(x, k, *condition)
        return self._terms(x, posterior, z, parameters)

    def log_weights(self, x: Tensor, k: int, *condition: Tensor) -> Tensor:
        """Log p(x, z) - log q(z | x) `[k, N]`, at k samples of the posterior."""
        return self.terms(x, k, *condition).log_weights

    def elbo(self, x: Tensor, *condition: Tensor) -> Tensor:
        """The evidence lower bound of log p(x), `[N]`, from one latent each."""
        return self.terms(x, 1, *condition).elbo

    def forward(self, z: Tensor, *condition: Tensor) -> Tensor:
        """The means of p(x | z), or the likelihood's estimates of them, `[N, *data_shape]`, from latents `[N, Z]`."""
        return self.likelihood(z, *condition).mean

    def latents(self, n: int) -> Tensor:
        """Latents `[n, Z]` from the prior, or from `ex_post` where that is set."""
        distribution = self.prior() if self.ex_post is None else self.ex_post
        # `ex_post` is no part of the module, and does not move with it.
        return distribution.sample(torch.Size([n])).to(self.device)

    def draw(self, n: int, *condition: Tensor) -> Tensor:
        """What the module makes, `[n, *data_shape]`, of latents from the prior, or from `ex_post`."""
        return self(self.latents(n), *condition)

    @torch.no_grad()
    def reconstruct(self, x: Tensor, *condition: Tensor) -> Tensor:
        """What the module makes, `[N, *data_shape]`, of the means of q(z | x), in its present mode."""
        return self(self.posterior(x, *condition).mean, *condition)

    def check_data(self, data: Tensor) -> None:
        """Looks at the first batch before it trains or measures anything.

        Raises:
            UserError: the data have another shape than the model, or are outside the likelihood's support.
        """
        super().check_data(data)
        self._likelihood.check_data(data)

    def on_fit_start(self) -> None:
        """Looks at the schedules, and shows the likelihood the training data, before anything is trained.

        Raises:
            UserError: a schedule is of what no optimizer has; the likelihood needs data that are not there.
        """
        super().on_fit_start()
        if self.iteration == 0:
            self._likelihood.initialize(self._training_data())

    def configure_optimizers(self) -> Optimizer:
        """One optimizer of all parameters that are not frozen."""
        return self._optimizer([parameter for parameter in self.parameters() if parameter.requires_grad])

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """The negative of the objective's mean over the batch."""
        posterior, z, parameters = self._pass(batch[0], self.objective.num_samples, *self.get_condition(batch))
        self._likelihood.fit(parameters.detach(), batch[0])
        terms = self._terms(batch[0], posterior, z, parameters)
        loss = -self.objective(terms, self.global_step).mean()
        # Lightning counts this iteration after the method has returned.
        iteration = self.global_step + 1
        if self.is_logged(iteration):
            self.log_iteration({"loss": loss} | _means(terms), iteration, len(batch[0]))
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """The ELBO, whatever the objective is, and its two parts, on held-out data."""
        self.log_evaluation(_means(self.terms(batch[0], 1, *self.get_condition(batch))), "val", len(batch[0]))

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> dict[str, Tensor]:
        """The ELBO, whatever the objective is, and its two parts, `[N]` each, of test data."""
        terms = self.terms(batch[0], 1, *self.get_condition(batch))
        self.log_evaluation(_means(terms), "test", len(batch[0]))
        return _bound(terms)

    def _training_data(self) -> Iterator[Tensor]:
        # Nothing is read, or missed, unless it is asked for.
        if not hasattr(self.trainer.datamodule, "images"):
            raise UserError(
                f"{type(self._likelihood).__name__} looks at the training images: take a data module with"
                " images(split), such as MNISTDataModule, or another likelihood."
            )
        yield from self.trainer.datamodule.images("train")

    def _pass(self, x: Tensor, k: int, *condition: Tensor) -> tuple[Distribution, Tensor, Tensor]:
        """q(z | x), k samples of it `[k, N, Z]`, and the parameters of p(x | z) `[k, N, *parameters_shape]`."""
        self._check_shape(x)
        if k < 1:
            raise UserError(f"k is {k}: choose 1 latent or more for each example.")
        posterior = self.posterior(x, *condition)
        z = posterior.rsample(torch.Size([k]))
        return posterior, z, self._decode(z, *condition)

    def _terms(self, x: Tensor, posterior: Distribution, z: Tensor, parameters: Tensor) -> Terms:
        return Terms(posterior, self.prior(), z, self._likelihood(parameters).log_prob(x))

    def _decode(self, z: Tensor, *condition: Tensor) -> Tensor:
        """The parameters of p(x | z): latents `[..., N, Z]` -> `[..., N, *parameters_shape]`."""
        seen = self._prior.decoded(z)
        labels = (part.expand(z.shape[:-1]).reshape(-1) for part in condition)
        parameters = promote_to_float32(self.decoder(seen.reshape(-1, seen.shape[-1]), *labels))
        return parameters.unflatten(0, z.shape[:-1])


def _bound(terms: Terms) -> dict[str, Tensor]:
    """The ELBO, which is -(distortion + rate) (Alemi et al. 2018), and the parts of the rate, where it has any."""
    rates = {f"rate/{number}": rate for number, rate in enumerate(terms.rates, 1)}
    return {"elbo": terms.elbo, "rate": terms.kl, "distortion": -terms.log_likelihood.mean(0)} | rates


def _means(terms: Terms) -> dict[str, Tensor]:
    return {name: values.mean() for name, values in _bound(terms).items()}
