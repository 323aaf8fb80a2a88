"""Whether a site takes a task on: the roster, the policy, the codebook, what a private run must be, and who opted out.

No patient's values are looked at. What is written is a newer roster that came along, for a person to accept, and a
policy that has come into force since the last task.
What the gate lets through is `Allowed`, and nothing else is charged or computed (`client.training.walk`).
"""

from __future__ import annotations

from client.policy.change import keep
from client.policy.policy import read_policy
from client.policy.unit import require_unit
from client.privacy.validity import require_invariant_rollouts, require_valid_privacy
from client.site.config import require_source
from client.site.federation import require_federation
from client.training.allowed import Allowed
from client.training.workplace import Workplace
from common.config import check_weights
from common.errors import Code, FedReasonError
from common.lattice import LARGEST_WEIGHT, usable
from common.messages.kinds import Task

MOST_ATTEMPTS = 2**31
"""Of any round, answered or not."""


def check(place: Workplace, task: Task, *, records: bool = True) -> Allowed:
    """Refuse a task of another roster, one that the policy does not allow, or one for another codebook.

    So is a private one where another site saw more of this site's ledger than there is. Who opted out is looked at, so
    that nothing is charged where that is not known; but not where no `records` serve the answer, which then depends on
    none, and comes though they cannot be read.
    """
    roster = require_federation(place.folder, place.config, task)
    force = read_policy(place.folder)
    keep(place.folder, force)
    force.policy.refuse(task.config)
    _require_round(task)
    if not task.config.secure:  # of a secure sum those that were begun count, in its journal
        force.policy.refuse_attempt(task.config.name, task.attempt)
    require_adapter_in_range(task)
    _require_codebook(place, task)
    require_unit(force.policy, task.config, place.codebook)
    require_valid_privacy(task.config, place.codebook)
    require_invariant_rollouts(task.config, place.config.rollouts)
    require_source(place.config.registry)
    if records:
        place.look_again()
        _ = place.patients
    if task.config.privacy is not None:
        place.ledger.seen_by_peers(task.ledgers.get(place.name, {}))
    return Allowed(task, force, roster)


def _require_round(task: Task) -> None:
    if not (0 <= task.round <= task.config.federation.rounds and 0 <= task.attempt < MOST_ATTEMPTS):
        raise FedReasonError(
            Code.POLICY_REFUSED,
            f"Round {task.round}, attempt {task.attempt + 1} is none of the {task.config.federation.rounds} rounds of "
            f"run '{task.config.name}'.",
            "Nothing was computed. Ask the coordinator what that was.",
        )


def require_adapter_in_range(task: Task) -> None:
    """Refuse an adapter that is no numbers, or, in a private run, so large that what comes of it may be none.

    Raises
    ------
    FedReasonError
        MODEL_ADAPTER.
    """
    adapter, private = task.adapter, task.config.privacy is not None
    if adapter is not None and not usable(adapter, private=private):
        raise FedReasonError(
            Code.MODEL_ADAPTER,
            f"The adapter of round {task.round} of run '{task.config.name}' holds values that are no numbers"
            + (f" or beyond {LARGEST_WEIGHT:g}." if private else "."),
            "Nothing was computed. The run has diverged (a lower optimizer.learning_rate), or somebody made this up.",
        )


def _require_codebook(place: Workplace, task: Task) -> None:
    stated, own = task.config.questions.codebook_sha256, place.codebook.sha256
    if stated != own:
        raise FedReasonError(
            Code.CODEBOOK_CHANGED,
            f"The run states codebook {str(stated)[:12]}, {place.config.codebook} has {own[:12]}.",
            "Ask the coordinator for the federation's codebook.",
        )
    check_weights(task.config, place.codebook, f"Run '{task.config.name}'")
