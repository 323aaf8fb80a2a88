"""A site in one session: takes the coordinator's message, gives its own, and takes the coordinator's word for nothing.

Every message is answered once. Before an answer is returned the journal that forbids a second one is on the disk. What
fails a check ends the session here: the site is then lost to the others, and its secrets are forgotten.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NoReturn

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from common.arrays import Integers
from common.errors import Code, FedReasonError
from common.identity.roster import Roster
from common.secagg import masks, shamir
from common.secagg.journal import Journal, Store
from common.secagg.keys import Secrets, agreed, own_mask, pair_mask, seed_commitment
from common.secagg.messages import (
    Advertisement,
    Boxes,
    Consent,
    Consents,
    Directory,
    Inbox,
    Masked,
    Opening,
    Revealed,
    Shares,
    Survivors,
    ToServer,
    ToSite,
)
from common.secagg.sealed import Kind, Place, seal, unseal
from common.secagg.session import Session
from common.secagg.statement import (
    Statement,
    advertisement_digest,
    advertisement_holds,
    sign_advertisement,
)
from common.secagg.terms import Limits, Terms, threshold

_OUT_OF_TURN = "Ask the site again in another attempt; where that does not help, look at the coordinator's log."
_KINDS: tuple[Kind, Kind] = ("seed", "key")


class Site:
    """The state machine.

    Parameters
    ----------
    name, key
        Who this is, and its signing key.
    roster
        The roster that this site accepted.
    session, terms
        What the site itself makes of the run and the round.
    limits
        The site's own.
    store
        Where the journal is kept.
    contribute
        Makes the site's sum [size], once; given the standard deviation of the noise that it has to hold, in units, or
        None.
    clamp
        Whether the sum has noise of its own: what lies outside the range is then brought to its edge, never refused.
    """

    def __init__(
        self,
        *,
        name: str,
        key: Ed25519PrivateKey,
        roster: Roster,
        session: Session,
        terms: Terms,
        limits: Limits,
        store: Store,
        contribute: Callable[[int | None], Integers],
        clamp: bool = False,
    ) -> None:
        self.name = name
        self._key, self._roster, self._session = key, roster, session
        self._terms, self._limits, self._contribute = terms, limits, contribute
        self._clamp = clamp or terms.noise is not None
        self._journal = Journal(store, session)
        self._awaits: type[ToSite] | None = Opening
        self._secrets: Secrets | None = None
        self._cohort: dict[str, Advertisement] = {}
        self._held: dict[str, dict[Kind, int]] = {}
        self._input = b""
        self._statement: Statement | None = None

    @property
    def awaits(self) -> type[ToSite] | None:
        """Kind of message that is answered next; None where the session is over for this site."""
        return self._awaits

    def take(self, message: ToSite) -> ToServer:
        """Answer a message; one at a time.

        Raises
        ------
        FedReasonError
            SECAGG_TURN for a message of another session or out of turn, which changes nothing; everything else ends
            the session at this site.
        """
        if message.session != self._session.id:
            raise FedReasonError(
                Code.SECAGG_TURN,
                f"A {type(message).__name__} of another session came: another run, round, model or roster.",
                "All sites need the same run, adapter and roster.",
            )
        if self._awaits is None or not isinstance(message, self._awaits):
            expected = "nothing more" if self._awaits is None else f"a {self._awaits.__name__}"
            raise FedReasonError(
                Code.SECAGG_TURN, f"A {type(message).__name__} came where {expected} is answered.", _OUT_OF_TURN
            )
        self._awaits = None
        try:
            answer, self._awaits = self._answer(message)
        finally:
            if self._awaits is None:
                self._secrets = None
                self._held = {}
        return answer

    def _answer(self, message: ToSite) -> tuple[ToServer, type[ToSite] | None]:
        match message:
            case Opening():
                return self._advertise(), Directory
            case Directory():
                return self._share(message), Inbox
            case Inbox():
                return self._mask(message), Survivors
            case Survivors():
                return self._consent(message), Consents
            case Consents():
                return self._reveal(message), None

    def _advertise(self) -> Advertisement:
        self._journal.open(self._limits.attempts)
        secrets, session = Secrets(), self._session.id
        self._secrets = secrets
        return sign_advertisement(
            session,
            self.name,
            secrets.mask.public_key().public_bytes_raw(),
            secrets.envelope.public_key().public_bytes_raw(),
            seed_commitment(secrets.seed, session, self.name),
            self._key,
        )

    def _share(self, directory: Directory) -> Shares:
        secrets = self._own()
        cohort = {told.site: told for told in directory.advertisements}
        self._check_keys(directory, cohort)
        self._limits.refuse_cohort(self._terms, len(cohort))
        self._cohort = {site: cohort[site] for site in sorted(cohort)}
        enough = threshold(len(cohort))
        self._journal.turn("shared", cohort=tuple(self._cohort), threshold=enough)
        secret: dict[Kind, bytes] = {"seed": secrets.seed, "key": secrets.mask.private_bytes_raw()}
        dealt = {kind: shamir.deal(secret[kind], enough, len(cohort)) for kind in _KINDS}
        boxes = {}
        for number, holder in enumerate(self._cohort):
            common = self._agreed(holder)
            sealed = (seal(dealt[kind][number], common, self._place(self.name, holder, kind)) for kind in _KINDS)
            boxes[holder] = Boxes(*sealed)
        return Shares(self._session.id, self.name, boxes)

    def _check_keys(self, directory: Directory, cohort: dict[str, Advertisement]) -> None:
        told = directory.advertisements
        secrets = self._own()
        mine = cohort.get(self.name)
        if mine is None or (mine.mask_key, mine.envelope_key, mine.seed) != (
            secrets.mask.public_key().public_bytes_raw(),
            secrets.envelope.public_key().public_bytes_raw(),
            seed_commitment(secrets.seed, self._session.id, self.name),
        ):
            raise _bad_keys("The directory lacks this site's own keys, or has others in their place")
        keys = {key for one in told for key in (one.mask_key, one.envelope_key)}
        if len(cohort) < len(told) or len(keys) < 2 * len(told):
            raise _bad_keys("The directory names a site, or has a key, twice")
        for one in told:
            if not advertisement_holds(one, self._session.id, self._roster):
                raise _bad_keys(f"The keys of {one.site} are not signed, for this session, by its key in the roster")

    def _mask(self, inbox: Inbox) -> Masked:
        sharers = set(inbox.boxes)
        noise = self._terms.noise
        fewest = max(threshold(len(self._cohort)), self._limits.floor(self._terms))
        if self.name not in sharers or not sharers <= set(self._cohort) or len(sharers) < fewest:
            raise FedReasonError(
                Code.SECAGG_SURVIVORS,
                f"Shares came of {len(sharers)} sites, and it takes {fewest}, this site and none outside the cohort.",
                _OUT_OF_TURN,
            )
        self._held = {sender: self._opened(sender, inbox.boxes[sender]) for sender in sorted(sharers)}
        share = None if noise is None else noise.share(len(sharers))
        self._journal.turn("masked")
        total = self._contribute(share)
        if total.shape != (self._terms.size,):
            raise FedReasonError(
                Code.MODEL_ADAPTER,
                f"The sum has {total.shape} integers, and the session is for {self._terms.size}.",
                "Install the same version of fedreason everywhere.",
            )
        words = masks.residues(total, self._terms.bits, sites=len(sharers), clamp=self._clamp)
        self._journal.mask(masks.digest(words).hex() if words.any() else None)
        masks.apply(self._masks(), words)
        self._input = masks.digest(words)
        return Masked(self._session.id, self.name, words)

    def _opened(self, sender: str, boxes: Boxes) -> dict[Kind, int]:
        sealed = {"seed": boxes.seed, "key": boxes.key}
        try:
            common = self._agreed(sender)
            return {kind: unseal(sealed[kind], common, self._place(sender, self.name, kind)) for kind in _KINDS}
        except ValueError as error:
            raise FedReasonError(
                Code.SECAGG_SHARE,
                f"A share of {sender} is not what it dealt to this site: {error}.",
                f"Ask again without {sender}; either it or the way from it is at fault.",
            ) from None

    def _masks(self) -> list[masks.Mask]:
        secrets, session = self._own(), self._session.id
        peers = [
            pair_mask(secrets.mask, self._cohort[peer].mask_key, session, site=self.name, peer=peer)
            for peer in self._held
            if peer != self.name
        ]
        return [own_mask(secrets.seed, session, self.name), *peers]

    def _consent(self, survivors: Survivors) -> Consent:
        inputs = {site: survivors.inputs[site] for site in sorted(survivors.inputs)}
        cohort = {site: advertisement_digest(told) for site, told in self._cohort.items()}
        statement = Statement(self._session.id, self._terms, cohort, tuple(self._held), inputs)
        if inputs.get(self.name) != self._input:
            self._refuse_survivors("this site's masked sum is not among them as it was sent")
        if not set(inputs) <= set(self._held):
            self._refuse_survivors("one of them has shared no keys")
        if len(inputs) < (fewest := max(statement.fewest, self._limits.floor(self._terms))):
            self._refuse_survivors(f"{len(inputs)} sites, and it takes {fewest}")
        self._statement = statement
        self._journal.turn("consented", agreed=statement.sha256)
        return Consent(self._session.id, self.name, statement.signed(self._key))

    def _reveal(self, consents: Consents) -> Revealed:
        statement = self._statement
        assert statement is not None
        signed = [site for site, text in consents.signatures.items() if statement.holds(site, text, self._roster)]
        if len(signed) < statement.fewest:
            self._refuse_survivors(f"{len(signed)} sites signed what this one did, and it takes {statement.fewest}")
        self._journal.turn("revealed")
        shares = {
            site: held["seed" if site in statement.inputs else "key"].to_bytes(shamir.SHARE_BYTES, "big")
            for site, held in self._held.items()
        }
        return Revealed(self._session.id, self.name, shares)

    def _refuse_survivors(self, why: str) -> NoReturn:
        raise FedReasonError(
            Code.SECAGG_SURVIVORS, f"The set of survivors is refused: {why}.", "The round is asked for once more."
        )

    def _own(self) -> Secrets:
        assert self._secrets is not None
        return self._secrets

    def _agreed(self, peer: str) -> bytes:
        return agreed(self._own().envelope, self._cohort[peer].envelope_key)

    def _place(self, sender: str, receiver: str, kind: Kind) -> Place:
        return Place(self._session.id, sender, receiver, kind)


def _bad_keys(what: str) -> FedReasonError:
    return FedReasonError(
        Code.SECAGG_KEYS,
        f"{what}.",
        "Ask again without that site, and find out by telephone whether its keys or the way to it were changed.",
    )
