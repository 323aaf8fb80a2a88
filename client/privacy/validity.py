"""Whether a run that states [privacy] keeps the rules of differential privacy, as far as its configuration shows.

The proof needs a patient's contribution to be clip_C(f(that record, current parameters, fresh private randomness)).

True by construction, because there is nothing else to choose:

- a loss and a mean divided by constants of the run, never by a batch's tokens or size (`client.grpo.loss`, `divisor`);
- advantages within a patient's own groups (`scale_rewards`), no running mean, no entropy threshold or bonus;
- a learning rate that depends on the round alone, no early stopping, no choice of a best checkpoint;
- a clip for each patient: `max_gradient_norm` bounds the noised mean, which is post-processing, and replaces no clip;
- each patient by a coin of their own, at the rate the run states: no shuffled blocks, no loader's length;
- one patient a batch in the training pass;
- every step, a local one too, is a release of its own: no batch is used for several.

Checked here: delta, vLLM in its batch-invariant mode, choices from the codebook and its
origin, a lattice that no change can leave, who may share noise and with how many, noise that can be drawn. Not to be
seen here, and checked where it happens: private randomness, whether what decodes patients together keeps them apart on
this machine (`client.grpo.selftest`), non-finite gradients, noise on an empty batch, the ledger.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

from client.privacy.clip import SMALLEST_CLIP_NORM
from client.privacy.noise import LARGEST_SIGMA
from client.site.config import Rollouts
from common.codebook import Codebook
from common.config import PrivacyConfig, RunConfig
from common.errors import Code, FedReasonError
from common.lattice import LARGEST, LARGEST_WEIGHT
from common.secagg.terms import most_colluders, share_sigma

FEWEST_SITES = 3
"""Fewest sites that may share noise; fewer add all of it each."""

SMALLEST_SHARE = 4
"""Least noise of one site, in units: from here on a sum of shares is as good as a discrete Gaussian."""

INVARIANT = "VLLM_BATCH_INVARIANT"
"""Environment variable of vLLM's batch-invariant mode."""


def require_valid_privacy(config: RunConfig, codebook: Codebook) -> None:
    """Refuse a run that states [privacy] and breaks what that needs, with every reason; another run passes.

    Raises
    ------
    FedReasonError
        DP_REFUSED, naming the keys.
    """
    if problems := [] if config.privacy is None else list(_problems(config, config.privacy, codebook)):
        raise FedReasonError(
            Code.DP_REFUSED,
            f"Run '{config.name}' is not differentially private: {'; '.join(problems)}.",
            "Nothing was computed. The coordinator has to change the run.",
        )


def require_invariant_rollouts(config: RunConfig, rollouts: Rollouts) -> None:
    """Refuse a private run at a site whose vLLM may decode a patient otherwise among others than alone.

    What its batch-invariant mode promises is tried out where the engine starts (`client.grpo.selftest`).

    Raises
    ------
    FedReasonError
        ROLLOUTS_SHARED.
    """
    if config.privacy is not None and rollouts == "vllm" and os.environ.get(INVARIANT) != "1":
        raise FedReasonError(
            Code.ROLLOUTS_SHARED,
            f"Run '{config.name}' is private, and vLLM's batch-invariant mode is off.",
            f'Start the site with {INVARIANT}=1 in its environment, or write rollouts = "transformers" into site.toml.',
        )


def _problems(config: RunConfig, privacy: PrivacyConfig, codebook: Codebook) -> Iterator[str]:
    federation = config.federation
    if privacy.delta > 1 / (10 * federation.population):
        yield f"privacy.delta {privacy.delta} > 1 / (10 x federation.population {federation.population})"
    if config.questions.choices != "codebook":
        yield f'questions.choices "{config.questions.choices}" look at other patients'
    if codebook.private:
        yield "the codebook is private: it was drafted from records, and nobody has replaced what came from them"
    if privacy.sigma_units > LARGEST_SIGMA:
        yield f"privacy.noise_multiplier x privacy.clip_units > {LARGEST_SIGMA}, the largest noise that can be drawn"
    if privacy.metrics_sigma is not None and privacy.metrics_sigma > LARGEST_SIGMA:
        yield f"privacy.metrics_noise_multiplier x privacy.metrics_questions x sqrt(3) > {LARGEST_SIGMA}, likewise"
    if privacy.clip_norm < SMALLEST_CLIP_NORM:
        yield f"privacy.clip_norm {privacy.clip_norm} < {SMALLEST_CLIP_NORM}, no usable bound"
    most = 2 * LARGEST_WEIGHT * federation.sites * 2.0**config.lattice.bits
    if federation.protocol == "fedavg" and most >= LARGEST:
        yield (
            f"lattice.bits {config.lattice.bits} leave no room for the changes of federation.sites {federation.sites}, "
            f"each up to {2 * LARGEST_WEIGHT:g}"
        )
    if privacy.colluders or privacy.dropouts or privacy.noise == "distributed":
        yield from _sharing_problems(config, privacy)


def _sharing_problems(config: RunConfig, privacy: PrivacyConfig) -> Iterator[str]:
    """Yield what forbids the noise to be shared; colluders and dropouts are stated for shared noise alone.

    Each of K sites adds sigma^2 C^2 / (K - c - d), so c colluders and d dropouts must leave someone, and no sum may be
    opened that fewer than K - d sites are in. A change of several local steps has no bound for one patient.
    """
    federation, lost = config.federation, privacy.colluders + privacy.dropouts
    if federation.protocol == "fedavg":
        yield 'privacy.colluders and privacy.dropouts are for shared noise, which federation.protocol "fedavg" forbids'
        return
    if federation.sites < FEWEST_SITES:
        yield f"federation.sites {federation.sites} < {FEWEST_SITES}, too few to share noise"
    if lost >= federation.sites:
        yield f"privacy.colluders + privacy.dropouts {lost} leave none of federation.sites {federation.sites}"
    if config.quorum < federation.sites - privacy.dropouts:
        yield (
            f"federation.quorum {config.quorum} < federation.sites {federation.sites} "
            f"- privacy.dropouts {privacy.dropouts}"
        )
    if privacy.noise == "local" or lost >= federation.sites:
        return
    most = most_colluders(federation.sites)
    if not 1 <= privacy.colluders <= most:
        yield f"privacy.colluders {privacy.colluders}: noise that {federation.sites} sites share allows for 1 to {most}"
    if share_sigma(privacy.sigma_units, sites=federation.sites, colluders=privacy.colluders,
                   dropouts=privacy.dropouts) < SMALLEST_SHARE:  # fmt: skip
        yield f"a site's share of the noise is below {SMALLEST_SHARE} units: raise privacy.clip_units"
