"""Secure aggregation: the sum is exact, nobody's own sum is found, and no lie of the coordinator changes that."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from typing import Any
from unittest.mock import patch

import numpy as np
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from common.errors import FedReasonError
from common.secagg import masks, sealed
from common.secagg.masks import Mask, Residues
from common.secagg.messages import Consents, Directory, Opening, Revealed, Survivors
from common.secagg.sealed import Place
from common.secagg.terms import Limits, Noise, Terms, threshold
from tests.broken.secagg import (
    NO_SESSION,
    UNCOUNTED,
    UNSIGNED,
    Anything,
    Kept,
    all_but_the_last,
    both_add,
    for_every_set,
    forgetful,
    half,
    in_any_turn,
    lost_forgotten,
    none,
    of_no_model,
    of_the_last,
    one_mask_fewer,
    same_for_all,
    short,
    t_alone,
    two,
    without_kind,
    yes,
)
from tests.common.secagg.cohort import TERMS, Cohort, Memory
from tests.privacy_checks import Check
from tests.uniform import looks_uniform

SESSIONS = 1000
ROUNDS = 100
"""Of one run: a site's journal grows by a line each round."""
_WORDS = (1 << 18) + 1001
_A = "site-000"


def check_sums(counts: tuple[int, ...] = (3, 5, 10)) -> bool:
    """The sum is that of the survivors, bit for bit, with as many lost at any exchange as the threshold allows."""
    for count in counts:
        for exchange in range(2, 6):
            cohort = Cohort(count)
            lost = list(cohort.keys)[: count - threshold(count)]
            try:
                total = cohort.run({exchange: lost})
            except FedReasonError:
                return False
            if not np.array_equal(total, cohort.expected()):
                return False
    return True


def check_upload() -> bool:
    """One upload of nothing but zeros looks uniform, and so does the difference of two."""
    stores = {name: Memory() for name in Cohort(3).keys}
    uploads = []
    for round_number in (1, 2):
        cohort = Cohort(3, terms=Terms(size=_WORDS, bits=32), stores=stores, round=round_number)
        cohort.vectors = {name: np.zeros(_WORDS, dtype=np.int64) for name in cohort.keys}
        message: Any = cohort.until(2).exchange()[_A]
        uploads.append(message.words)
    zeros = np.zeros(_WORDS, dtype=np.uint32)
    return all(looks_uniform(words, plain=zeros) for words in (*uploads, uploads[1] - uploads[0]))


def check_keys(sessions: int = SESSIONS) -> bool:
    """In 1,000 sessions every mask and box has a key of its own, known to its two sites, and every site new ones."""
    made, closed, public = Counter[bytes](), Counter[bytes](), Counter[bytes]()
    apply, key = masks.apply, sealed._key

    def counted(added: list[Mask], vector: Residues, *, threads: int = 1) -> None:
        made.update(mask.key for mask in added)
        apply(added, vector, threads=threads)

    def told(agreed: bytes, place: Place) -> tuple[bytes, bytes]:
        both = key(agreed, place)
        closed.update([b"".join(both)])
        return both

    cohort, stores, looked_at = Cohort(3), None, {2, 10, 100, sessions}
    with patch("common.secagg.masks.apply", counted), patch("common.secagg.sealed._key", told):
        for number in range(1, sessions + 1):
            again = stores if number % ROUNDS else None
            cohort = Cohort(3, terms=Terms(size=1, bits=32), stores=again, run=f"run-{number // ROUNDS}", round=number)
            stores = cohort.stores
            cohort.until(3)
            told_keys = [(one.mask_key, one.envelope_key, one.seed) for one in cohort.server._cohort.values()]
            public.update(key for one in told_keys for key in one)
            if number not in looked_at:
                continue
            uses = [Counter(one.values()) for one in (made, closed, public)]
            if uses != [{1: 3 * number, 2: 3 * number}, {2: 18 * number}, {1: 9 * number}]:
                return False
    return True


def check_signatures() -> bool:
    """A key that the coordinator put in the place of a site's own gets nobody's shares."""
    cohort = Cohort(5).until(1)
    message: Any = cohort.server.proceed()[_A]
    forged = X25519PrivateKey.generate().public_key().public_bytes_raw()
    told = tuple(replace(one, envelope_key=forged) if one.site == "site-001" else one for one in message.advertisements)
    return _refuses(lambda: cohort.sites[_A].take(Directory(message.session, told)))


def check_threshold() -> bool:
    """A coordinator that goes on with three of five sites, as many as a sum may be of, unmasks nothing."""
    cohort = Cohort(5, limits=Limits(cohort=3, threshold=2)).until(2)
    cohort.exchange(["site-003", "site-004"])
    three = Survivors(cohort.session.id, dict(cohort.server._inputs))
    return len(three.inputs) == 3 and _refuses(lambda: cohort.sites[_A].take(three))


def _consented(cohort: Cohort, shown: dict[str, Survivors]) -> dict[str, str]:
    signed = {}
    for name, message in shown.items():
        answer: Any = cohort.sites[name].take(message)
        signed[name] = answer.signature
    return signed


def _inputs(cohort: Cohort, *, without: str | None = None) -> Survivors:
    return Survivors(cohort.session.id, {n: one for n, one in cohort.server._inputs.items() if n != without})


def check_active_or_dead() -> bool:
    """Of no site enough shares of both secrets are revealed, whatever survivor sets each site is asked about."""
    cohort = Cohort(9).until(3)
    victim = "site-008"
    given: Counter[str] = Counter()
    shown = {"seed": _inputs(cohort), "key": _inputs(cohort, without=victim)}
    for kind, survivors in shown.items():
        signed = {}
        for name in survivors.inputs:
            try:
                answer: Any = cohort.sites[name].take(survivors)
                signed[name] = answer.signature
            except FedReasonError:
                continue
        for name in signed:
            try:
                revealed = cohort.sites[name].take(Consents(cohort.session.id, signed))
            except FedReasonError:
                continue
            assert isinstance(revealed, Revealed)
            given[kind] += len(revealed.shares[victim]) > 0
    return given["seed"] >= threshold(9) and given["key"] < threshold(9)


def check_split() -> bool:
    """Half of the sites are shown a survivor set without one of them: nobody reveals anything."""
    cohort = Cohort(9).until(3)
    names = list(cohort.keys)
    whole, part = _inputs(cohort), _inputs(cohort, without=names[-1])
    signed = _consented(cohort, {name: part if number < 4 else whole for number, name in enumerate(names)})
    told = Consents(cohort.session.id, signed)
    return all(_refuses(lambda name=name: cohort.sites[name].take(told)) for name in names)  # type: ignore[misc]


def check_quorum() -> bool:
    """One signature fewer than t is refused, though it be of colluders who sign whatever they are shown."""
    results = []
    for missing in (0, 1):
        cohort = Cohort(9).until(3)
        signed = _consented(cohort, dict.fromkeys(cohort.keys, _inputs(cohort)))
        few = dict(list(signed.items())[: threshold(9) - missing])
        results.append(_refuses(lambda cohort=cohort, few=few: cohort.sites[_A].take(Consents(cohort.session.id, few))))  # type: ignore[misc]
    return results == [False, True]


def check_model() -> bool:
    """A site that was shown another model is in another session: neither it nor the others go on."""
    cohort = Cohort(5)
    cohort.sites[_A] = cohort.site(_A, session=replace(cohort.session, model_sha256="c" * 64))
    return _refuses(lambda: cohort.sites[_A].take(Opening(cohort.session.id)))


def check_noise_quorum() -> bool:
    """With shared noise fewer than K - d survivors are not unmasked, though they are more than t."""
    cohort = Cohort(10, terms=replace(TERMS, noise=Noise(11_000, 1, 1))).until(2)
    cohort.exchange(["site-008", "site-009"])
    return _refuses(lambda: cohort.sites[_A].take(_inputs(cohort)))


def check_views() -> bool:
    """A site that counts more or fewer sharers, and so adds another share of the noise, signs something else."""
    cohort = Cohort(10, terms=replace(TERMS, noise=Noise(11_000, 1, 1))).until(2)
    messages: dict[str, Any] = dict(cohort.server.proceed())
    fewer = {name: boxes for name, boxes in messages[_A].boxes.items() if name != "site-009"}
    messages[_A] = replace(messages[_A], boxes=fewer)
    cohort.deliver(messages)
    survivors = _inputs(cohort, without="site-009")
    signed = _consented(cohort, dict.fromkeys(survivors.inputs, survivors))
    return _refuses(lambda: cohort.sites["site-001"].take(Consents(cohort.session.id, signed)))


def check_second_input() -> bool:
    """A site masks once in a session, whatever it is sent, and a session once in its life."""
    cohort = Cohort(5).until(2)
    message = cohort.server.proceed()[_A]
    cohort.sites[_A].take(message)
    cohort.vectors[_A] = cohort.vectors[_A] + 1
    again = cohort.site(_A)
    return _refuses(lambda: cohort.sites[_A].take(message)) and _refuses(lambda: again.take(Opening(cohort.session.id)))


def check_take_back() -> bool:
    """Of rounds that were taken back no attempt is answered again, also once a later round was."""
    stores = Cohort(3).stores
    for number, attempt in ((1, 0), (2, 0), (3, 0), (2, 1)):
        Cohort(3, round=number, attempt=attempt, stores=stores).until(3)
    return all(
        _refuses(Cohort(3, round=number, attempt=attempt, stores=stores).exchange)
        for number, attempt in ((1, 0), (2, 1), (3, 0))
    )


def check_same_vector() -> bool:
    """The sum of one attempt is not masked in the next, whose cohort may overlap."""
    first = Cohort(5).until(3)
    again = Cohort(5, attempt=2, stores=first.stores)
    again.vectors = first.vectors
    again.until(2)
    return _refuses(again.exchange)


def check_shares() -> bool:
    """A wrong share is named with its holder, and the others' suffice."""
    cohort = Cohort(5).until(4)
    messages = cohort.server.proceed()
    answers: dict[str, Any] = {name: cohort.sites[name].take(message) for name, message in messages.items()}
    spoilt = replace(answers[_A], shares=dict.fromkeys(answers[_A].shares, bytes(66)))
    try:
        cohort.server.take(spoilt)
        return False
    except FedReasonError as error:
        named = _A in error.found
    for name in answers.keys() - {_A}:
        cohort.server.take(answers[name])
    return named and np.array_equal(cohort.server.total(), cohort.expected())


def _refuses(act: Callable[[], object]) -> bool:
    try:
        act()
    except FedReasonError:
        return True
    return False


def _mutated(check: Callable[[], bool], **broken: Any) -> Callable[[], bool]:
    """Return the check on code in which these names of common.secagg are replaced, by `module__name`."""

    def run() -> bool:
        with ExitStack() as stack:
            for name, value in broken.items():
                stack.enter_context(patch("common.secagg." + name.replace("__", "."), value))
            return check()

    return run


CHECKS = [
    Check(
        "secure aggregation: sums",
        check_sums,
        {
            "a mask left on": _mutated(check_sums, server__Server___left=one_mask_fewer),
            "masks of the lost left on": _mutated(check_sums, server__Server___left=lost_forgotten),
            "both of a pair add": _mutated(check_sums, site__pair_mask=both_add, server__pair_mask=both_add),
        },
    ),
    Check(
        "secure aggregation: an upload",
        check_upload,
        {
            "no mask": _mutated(check_upload, masks__apply=none),
            "half of a word masked": _mutated(check_upload, masks__apply=half),
            "masks of 24 bits": _mutated(check_upload, masks__apply=short),
            "the last words not masked": _mutated(check_upload, masks__apply=all_but_the_last),
            "a mask reused": _mutated(check_upload, site__Secrets=Kept, **NO_SESSION),
        },
    ),
    Check(
        "secure aggregation: keys and nonces",
        check_keys,
        {
            "a mask reused": _mutated(check_keys, site__own_mask=same_for_all),
            "secrets kept for the next session": _mutated(check_keys, site__Secrets=Kept),
            "a nonce used twice": _mutated(check_keys, sealed__Place__label=without_kind),
        },
    ),
    Check(
        "secure aggregation: signed keys",
        check_signatures,
        {"a signature unchecked": _mutated(check_signatures, site__advertisement_holds=yes)},
    ),
    Check(
        "secure aggregation: threshold",
        check_threshold,
        {
            "the server supplies a threshold of 2": _mutated(
                check_threshold, site__threshold=two, server__threshold=two, terms__threshold=two
            )
        },
    ),
    Check(
        "secure aggregation: active or dead",
        check_active_or_dead,
        {"one node both active and dead": _mutated(check_active_or_dead, site__Site__take=for_every_set)},
    ),
    Check(
        "secure aggregation: one answer",
        check_second_input,
        {
            "a second masked sum": _mutated(check_second_input, site__Site__take=in_any_turn),
            "a replayed round": _mutated(check_second_input, journal__Journal__open=forgetful),
        },
    ),
    Check(
        "secure aggregation: rounds that were taken back",
        check_take_back,
        {"the last round alone is known": _mutated(check_take_back, journal__Entry__tallies=of_the_last)},
    ),
    Check(
        "secure aggregation: one sum, one attempt",
        check_same_vector,
        {"the same sum masked again": _mutated(check_same_vector, journal__Journal__mask=lambda self, digest: None)},
    ),
    Check(
        "secure aggregation: a wrong share",
        check_shares,
        {"shares unchecked": _mutated(check_shares, server__commitment=lambda share, place: Anything())},
    ),
    Check(
        "consistency: split survivors",
        check_split,
        {"the signature check removed": _mutated(check_split, **UNSIGNED)},
    ),
    Check(
        "consistency: fewer than t signatures",
        check_quorum,
        {"the signatures not counted": _mutated(check_quorum, **UNCOUNTED)},
    ),
    Check(
        "consistency: another model",
        check_model,
        {"the model is not of the session": _mutated(check_model, session__Session__id=property(of_no_model))},
    ),
    Check(
        "consistency: views of who shared",
        check_views,
        {
            "the signature check removed": _mutated(check_views, **UNSIGNED),
            "t signatures are enough": _mutated(check_views, statement__fewest_survivors=t_alone),
        },
    ),
    Check(
        "consistency: K - d survivors",
        check_noise_quorum,
        {"t survivors are enough": _mutated(check_noise_quorum, statement__fewest_survivors=t_alone)},
    ),
]
