"""What a coordinator can do about a site that did not take part, by the number that came from it.

Only numbers travel, so that each number has one public sentence here; what exactly was found stands in the site's own
log. A site that is away is told apart from one that refuses, and both from one whose program failed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from common.errors import Code

Kind = Literal["offline", "silent", "busy", "failed", "refused"]
"""In the order of being told, the last first: who can decide something comes before who has to be waited for."""

_BUSY = frozenset({Code.MODEL_MAKING, Code.SITE_PAUSED})
_FAILED = frozenset(
    {
        *(Code.RUN_FAILED, Code.RUN_REPLY, Code.LATTICE_RANGE, Code.SITE_WORKER, Code.SITE_IDENTITY, Code.DISK_FULL),
        *(Code.FILE_FORBIDDEN, Code.RANK_LOST, Code.RANKS_MISSING),
    }
)
_KINDS: tuple[Kind, ...] = ("refused", "failed", "busy", "silent", "offline")
_SAYS: dict[Kind, str] = {
    "refused": "refused",
    "failed": "failed",
    "busy": "cannot for now",
    "silent": "is online and did not answer in time",
    "offline": "is offline",
}
_REGISTRY = "its registry or codebook is at fault: `python -m client check --site {site}` there says where"
_VLLM = 'its vLLM cannot be used for this run: have it write rollouts = "transformers", or see `check` there'
_ROSTER = "it has not accepted the newest roster: have it compare fingerprints, then `python -m client roster accept`"
_KEY = "its keys are not those that were admitted: have it send request.json, then `python -m server admit`"

ADVICE: dict[Code, str] = {
    Code.CONFIG_MISSING: "its site.toml cannot be read: `python -m client check --site {site}` there says why",
    Code.CONFIG_SYNTAX: "its site.toml or policy.toml is no TOML: `check` there names the line",
    Code.CONFIG_UNKNOWN_KEY: "its site.toml or policy.toml has an unknown key: `check` there names the line",
    Code.CONFIG_VALUE: "its site.toml or policy.toml has a bad value: `check` there names the line",
    Code.CODEBOOK_MISSING: "it has no codebook: send it the federation's once more",
    Code.CODEBOOK_CHANGED: "its codebook is not that of the run: send it the federation's, or state its own in the run",
    Code.CODEBOOK_PRIVATE: "its codebook was drafted from records: a person there has to review it first",
    Code.MODEL_MISSING: "it does not have the run's model: have it copy the folder, or correct model.base",
    Code.MODEL_MANIFEST: "its model files differ from model.manifest_sha256: have it copy the folder again",
    Code.MODEL_TARGETS: "adapter.target_modules names no layer of the model: correct the run",
    Code.MODEL_ADAPTER: "it would train other parameters: it needs the same model files and version of fedreason",
    Code.MODEL_UNFIT: "the base model cannot be trained so: the log there says what to change in the run",
    Code.MODEL_QUANTIZATION: 'it cannot hold the model in 4 bits: have it install bitsandbytes, or state "none"',
    Code.MODEL_MAKING: "it is making the run's model: wait, or have it say `python -m client model --run FILE` before",
    Code.MODEL_CACHE: "it cannot keep the model it makes: its user has to be able to write to FEDREASON_CACHE",
    Code.RUN_REPLY: "its answer was of another form, round or size: install the same version of fedreason everywhere",
    Code.RUN_FAILED: "its program met what nobody foresaw: ask for the last lines of its log",
    Code.RUN_ABSENT: "have it started, or see whether it reaches you: `python -m server status` says since when",
    Code.LATTICE_RANGE: "its numbers are no numbers or too large: lower the learning rate, or see its training log",
    Code.KEY_MISSING: "a key or certificate of its is missing: `python -m client check --site {site}` there says which",
    Code.KEY_UNKNOWN: _KEY,
    Code.KEY_PERMISSIONS: "others can read its keys: have it correct the permissions that `check` there names",
    Code.ROSTER_MISSING: "it has accepted no roster: send it roster.json, then `python -m client roster accept`",
    Code.ROSTER_CHANGED: _ROSTER,
    Code.ROSTER_SIGNATURE: "the roster is not signed by the key of its kit: compare fingerprints, then send it anew",
    Code.SECAGG_TURN: "it was started anew in the middle of a round, or has another roster than you: try again, and "
    "where that does not help have it accept the newest roster",
    Code.SECAGG_REPLAYED: "it has answered this round before, or its journal was put back: ask in a new attempt",
    Code.SECAGG_COHORT: "too few sites take part for what its policy demands: have more of them started",
    Code.SECAGG_KEYS: "it saw keys that the roster does not have: its log names the site; compare fingerprints",
    Code.SECAGG_SHARE: "another site dealt it a wrong share: its log names which; go on without that one",
    Code.SECAGG_SURVIVORS: "it does not agree with the others about who is in the sum: ask in a new attempt",
    Code.SITE_PAUSED: "it is paused, being stopped, or outside its hours: it is asked again by itself",
    Code.SITE_SILENT: "it is slow, or its answer was lost: raise federation.deadline, or ask for its status",
    Code.SITE_WORKER: "its process was ended, mostly for want of memory: it is asked again; or make the run smaller",
    Code.SITE_IDENTITY: "its answer bears another site's name: have it correct `name` in site.toml, and telephone",
    Code.SITE_CLOSED: _REGISTRY,
    Code.SITE_SILENCED: "attempts of its ended without an answer, which it may not explain: telephone, and have it say "
    "`python -m client resume --site {site}` once the cause is mended",
    Code.DISK_FULL: "its disk is full: have it free some space; it is asked again by itself",
    Code.FILE_FORBIDDEN: "its user may not reach a file of its: its log names it, and whose it is",
    Code.POLICY_MISSING: "it has no policy.toml that can be read: have it fill in the one of its kit",
    Code.POLICY_REFUSED: "the run asks for more than its policy.toml allows: change the keys that its log names (often "
    "[privacy] missing, model.base, rounds), or have the hospital allow them",
    Code.POLICY_SIGNATURE: "its policy.toml is not what its privacy officer signed: the officer has to sign it again",
    Code.POLICY_WEAKER: "its policy.toml allows more than before: somebody there has to confirm that",
    Code.PRIVACY_UNIT: "its policy names another column as the patient than the codebook: agree on one",
    Code.FEDERATION_OTHER: "the run calls the federation otherwise than its kit: correct federation.name of the run",
    Code.DP_REFUSED: "the run breaks its own [privacy]: change the key that its log names (docs/privacy.md says why)",
    Code.BUDGET_SPENT: "its privacy budget does not cover the next round: go on without it (federation.quorum), or its "
    "officer raises the cap",
    Code.LEDGER_DAMAGED: "its ledger is damaged: it has to put back its newest copy before a private run",
    Code.LEDGER_ROLLED_BACK: "its ledger is older than its mark or another site knows: put back the newest",
    Code.LEDGER_OTHER: "another ledger counts for its registry: it has to name that folder as `ledger` in site.toml",
    Code.ROLLOUTS_UNAVAILABLE: _VLLM,
    Code.ROLLOUTS_ADAPTER: _VLLM,
    Code.RANK_LOST: "one of its devices failed or its process was ended: it is asked again; `check` there tells more",
    Code.RANKS_MISSING: "one of its devices is not there: `python -m client check --site {site}` there says which",
    Code.RANKS_UNLIKE: "its devices are not of one kind: have it name others as `devices` in site.toml",
    Code.ROLLOUTS_SHARED: 'its rollouts do not keep patients apart: set grpo.decode = "patient", or see `check` there',
}
"""By the numbers that a site sends, or stands for; those of a registry share a sentence."""


def kind_of(number: int) -> Kind:
    """Return what a number says of a site."""
    if number == Code.RUN_ABSENT:
        return "offline"
    if number == Code.SITE_SILENT:
        return "silent"
    return "busy" if number in _BUSY else "failed" if number in _FAILED else "refused"


def advice(site: str, number: int) -> str:
    """Return what a coordinator can do about it."""
    if number not in set(Code):
        return "this version does not know the number: install the same version of fedreason everywhere"
    text = ADVICE.get(Code(number))
    if text is None and 200 <= number < 400:
        text = _REGISTRY
    return (text or "docs/errors.md says what the number means, and its log what was found").format(site=site)


def meaning(number: int) -> str:
    """Return a number with its name: "E832 policy refused"."""
    try:
        return f"E{number} {Code(number).name.lower().replace('_', ' ')}"
    except ValueError:
        return f"E{number}"


def told(site: str, number: int) -> str:
    """Say what became of a site, and what to do: "amc refused: E832 policy refused (...)"."""
    return f"{site} {_SAYS[kind_of(number)]}: {meaning(number)} ({advice(site, number)})"


def all_told(refused: Mapping[str, int]) -> list[str]:
    """Say it of several sites: first who refused, last who is away."""
    order = sorted(refused.items(), key=lambda item: (_KINDS.index(kind_of(item[1])), item[0]))
    return [told(site, number) for site, number in order]


def in_short(refused: Mapping[str, int]) -> str:
    """Name the sites by what became of them, on one line: "refused: amc (E832 policy refused); offline: west"."""
    groups: dict[Kind, list[str]] = {}
    for site, number in sorted(refused.items()):
        kind = kind_of(number)
        groups.setdefault(kind, []).append(site if kind == "offline" else f"{site} ({meaning(number)})")
    return "; ".join(f"{kind}: {', '.join(groups[kind])}" for kind in _KINDS if kind in groups)


def remedy(refused: Mapping[str, int]) -> str:
    """Return what has to happen before a run that fell short of its quorum can be started again."""
    kinds = {kind_of(number) for number in refused.values()}
    steps = []
    if "refused" in kinds:
        steps.append("change the run or have the site change what it refused for")
    if "failed" in kinds:
        steps.append("have what failed mended")
    if kinds & {"silent", "offline"}:
        steps.append("have the absent sites started")
    if kinds == {"busy"}:
        steps.append("wait for the sites that cannot for now")
    text = ", ".join(steps) or "see `python -m server status`"
    return f"{text[0].upper()}{text[1:]}, then start the run again: it goes on from its last round."
