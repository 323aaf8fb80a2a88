"""Each limit of a policy as a sentence, for people who sign it and for those whose records it is about."""

from __future__ import annotations

from collections.abc import Sequence

from client.policy.limits import PatientUnit, PrivacyLimits
from client.policy.policy import ANY, Policy

_METRICS = {
    "none": "No count of questions or right answers leaves.",
    "noised": "Counts of questions and right answers leave only with the noise that the run states, and are charged.",
    "plain": "Counts of questions and right answers leave as they are, without noise: for data that is nobody's.",
}
_PROTOCOLS = {"fedsgd": "the sum of the patients' gradients", "fedavg": "the change of several local steps"}


def sentences(policy: Policy) -> dict[str, str]:
    """Return every limit in words by its dotted key in policy.toml, what was left out filled in."""
    anything = ANY in policy.base_models
    protocols = _listed([f"{_PROTOCOLS[name]} ({name})" for name in policy.protocols], "nothing")
    return {
        "metrics": _METRICS[policy.metrics],
        "base_models": f"Trained may be {'any base model' if anything else _listed(policy.base_models, 'no model')}.",
        "protocols": f"What is computed of records leaves only as {protocols}.",
        "views": f"Questions may show {_of('view', policy.views)} of the codebook.",
        "items": f"Asked may be {_of('feature and task', policy.items)} of the codebook.",
        "max_prompt_tokens": f"A question has at most {policy.max_prompt_tokens:,} tokens.",
        "max_completion_tokens": f"An answer has at most {policy.max_completion_tokens:,} tokens.",
        "min_temperature": f"Answers are sampled at a temperature of {policy.min_temperature} at least.",
        "max_temperature": f"Answers are sampled at a temperature of {policy.max_temperature} at most.",
        "min_top_p": f"Answers are sampled from the likeliest {policy.min_top_p} of all words, or more.",
        "max_group_size": f"A question is answered at most {_times(policy.max_group_size)} in a step.",
        "max_questions": f"A patient is asked at most {policy.max_questions:,} questions in a step.",
        "max_attempts": f"The part of one round is computed at most {_times(policy.max_attempts)}, each charged.",
        "max_rounds": f"A run has at most {policy.max_rounds:,} rounds.",
        **_patient(policy.patient),
        **_private(policy, policy.privacy),
    }


def _patient(unit: PatientUnit) -> dict[str, str]:
    fold = _listed(unit.fold, "nothing")
    return {
        "patient.column": "No column is said to tell patients apart: no private run is accepted."
        if unit.column is None
        else f"Patients are told apart by the column {unit.column}: to each of them privacy is promised.",
        "patient.fold": f"Two ways to write an identifier mean one patient where they differ in {fold}.",
    }


def _private(policy: Policy, limits: PrivacyLimits) -> dict[str, str]:
    private, other = policy.floors
    floor = f"{private}" if private == other else f"{private} in a private run, {other} in another"
    return {
        "privacy.required": "Only differentially private runs may use the records."
        if policy.requires_privacy
        else "Runs without differential privacy may use the records, too: what leaves is then not protected.",
        "privacy.epsilon": f"All runs together spend an epsilon of {limits.epsilon} on a patient at most.",
        "privacy.delta": f"That epsilon holds at a delta of {limits.delta}; no run may state a larger delta.",
        "privacy.max_clip_norm": f"A patient's gradient is cut to a length of {limits.max_clip_norm} or less.",
        "privacy.min_noise_multiplier": f"Noise has a standard deviation of {limits.min_noise_multiplier} times "
        "that length at least.",
        "privacy.max_sampling_rate": f"A patient takes part in a step with a chance of {limits.max_sampling_rate} "
        "at most.",
        "privacy.max_steps": f"A private run has at most {limits.max_steps:,} steps.",
        "privacy.min_answer_every": f"Answers leave at multiples of {limits.min_answer_every} seconds or longer, so "
        "that their time tells little.",
        "privacy.min_colluders": f"Shared noise must hold where {limits.min_colluders:,} others conspire, at least.",
        "privacy.min_dropouts": f"Shared noise must hold where {limits.min_dropouts:,} sites do not answer, at least.",
        "privacy.min_sites": f"Fewest sites that make a round: {floor}.",
        "privacy.secure_aggregation": "The coordinator may learn only the sum over all sites, never this site's part."
        if limits.secure_aggregation
        else "The coordinator may learn this site's own part, as it leaves.",
        "privacy.shared_noise": "This site may add a share of a run's noise only; its patients then rely on the other "
        "sites, too."
        if limits.shared_noise
        else "This site adds all of the noise that protects its patients.",
    }


def _of(what: str, names: Sequence[str]) -> str:
    return _listed(names, "") or f"every {what}"


def _listed(names: Sequence[str], none: str) -> str:
    """Return names as in a sentence."""
    return " or ".join(filter(None, [", ".join(names[:-1]), names[-1]])) if names else none


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count:,} times"
