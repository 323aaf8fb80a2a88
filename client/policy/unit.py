"""Who a patient is, is the site's to say: a codebook that takes rows or visits for patients splits one into many."""

from __future__ import annotations

from client.policy.limits import FOLDED
from client.policy.policy import POLICY_FILE, Policy
from common.codebook import ROW, Codebook
from common.config import RunConfig
from common.errors import Code, FedReasonError


def require_unit(policy: Policy, config: RunConfig | None, codebook: Codebook) -> None:
    """Refuse a codebook whose patients are other ones than the policy's, and a policy of another folding.

    A run that is not private promises nothing to a patient: for one the policy need not say whose column it is, but
    where it does that holds for every run.

    Parameters
    ----------
    config
        The run; None to compare the codebook alone, with what the policy says.

    Raises
    ------
    FedReasonError
        PRIVACY_UNIT, naming both columns.
    """
    column = policy.patient.column
    if set(policy.patient.fold) != set(FOLDED):
        raise FedReasonError(
            Code.PRIVACY_UNIT,
            f"{POLICY_FILE} says patient.fold = {', '.join(policy.patient.fold) or 'none'}; this version folds "
            f"{', '.join(FOLDED)}.",
            "Nothing was computed. State all of them, or do not use this version.",
        )
    private = config is not None and config.privacy is not None
    if codebook.patient == column or (column is None and not private):
        return
    if codebook.patient == ROW and private:
        found = f"The codebook takes every row for another patient (patient = {ROW!r})"
    elif column is None:
        found = f"{POLICY_FILE} does not say in which column the patient stands; the codebook says {codebook.patient}"
    else:
        found = f"The codebook takes {codebook.patient} for the patient, {POLICY_FILE} says {column} (patient.column)"
    raise FedReasonError(
        Code.PRIVACY_UNIT,
        f"{found}.",
        "Nothing was computed. What is promised is promised to each patient: the privacy officer states which column "
        f"tells patients apart ([patient] column in {POLICY_FILE}), then signs the policy anew or confirms it "
        "(python -m client policy confirm), and the codebook has to say the same.",
    )
