"""The evaluation of generated series."""

from callbacks.example_evaluation import ExampleEvaluation, Examples
from gen_lightning.contracts import SignalData
from gen_lightning.metrics import (
    Estimate,
    classifier_two_sample_test,
    extract_signal_features,
    join_signal_features,
    log_spectral_distance,
    mean_difference,
    memorization,
    spectral_wasserstein,
    train_on_samples,
    wasserstein_distance,
)


class SignalEvaluation(ExampleEvaluation):
    """Compares generated series with held-out ones by spectra, summary features and values.

    The metrics after each validation, all of them better if lower:

    - `log_spectral_distance`: of the mean power spectra, in decibels
    - `spectral_wasserstein`: of the normalized mean power spectra, in cycles per sample
    - `feature_distance`: Wasserstein-1 distance of the mean, standard deviation, skewness, kurtosis, autocorrelations,
      spectral centroid and correlations between channels of a series, in units of the real standard deviation
    - `marginal_distance`: the same distance of the values at each time
    - `autocorrelation_difference`: of the mean autocorrelations
    - `correlation_difference`: of the mean correlations between channels, if there are several

    `test` also has `two_sample_accuracy`, of a classifier on features, spectra and values; `memorization`; and, if the
    model is class-conditional, `trained_on_samples`.

    Args:
        num_samples: number of samples, N; 2 to 100,000, by default as many as there are held-out series
        seed: seed of the samples
    """

    contract = SignalData
    identifying_row = "log_spectral_distance"

    def compare(self, samples: Examples, held_out: Examples) -> dict[str, Estimate]:
        """Return the distances by name."""
        real, generated = (extract_signal_features(one.data, held_out.data) for one in (held_out, samples))
        estimates = {
            "log_spectral_distance": log_spectral_distance(real.spectra, generated.spectra),
            "spectral_wasserstein": spectral_wasserstein(real.spectra, generated.spectra, held_out.data.shape[-1]),
            "feature_distance": wasserstein_distance(real.summary, generated.summary),
            "marginal_distance": wasserstein_distance(real.values, generated.values),
            "autocorrelation_difference": mean_difference(real.autocorrelations, generated.autocorrelations),
        }
        if held_out.data.shape[1] > 1:
            estimates["correlation_difference"] = mean_difference(real.correlations, generated.correlations)
        return estimates

    def measure(self, samples: Examples, held_out: Examples, training: Examples) -> dict[str, Estimate]:
        """Return the distances, and what classifiers and nearest neighbours tell, by name."""
        parts = [extract_signal_features(one.data, held_out.data) for one in (held_out, samples, training)]
        real, generated = (join_signal_features(one, parts[0]) for one in parts[:2])
        estimates = self.compare(samples, held_out) | {
            "two_sample_accuracy": classifier_two_sample_test(real, generated),
            "memorization": memorization(parts[1].segments, parts[0].segments, parts[2].segments),
        }
        if samples.labels is not None and held_out.labels is not None:
            estimates["trained_on_samples"] = train_on_samples(generated, samples.labels, real, held_out.labels)
        return estimates
