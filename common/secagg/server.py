"""The coordinator in one session: hands the sites' messages to one another, adds masked sums as they come, unmasks.

Of masked sums it keeps the running total alone, so memory does not grow with the sites. It checks what it can, to name
who is at fault; no site relies on that.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from common.arrays import Integers
from common.errors import Code, FedReasonError
from common.identity.roster import Roster
from common.secagg import masks, shamir
from common.secagg.keys import own_mask, pair_mask, seed_commitment
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
from common.secagg.sealed import Kind, Place, commitment
from common.secagg.session import Session
from common.secagg.statement import Statement, advertisement_digest, advertisement_holds
from common.secagg.terms import FEWEST, Terms, threshold

_ANEW = "Ask for the round in another attempt, of the sites that are there."


class Server:
    """The state machine: `proceed` gives the messages of an exchange, `take` takes the answers, `total` the sum.

    Parameters
    ----------
    session, terms
        What is summed.
    roster
        The federation's.
    invited
        Sites that are asked.
    fewest
        Fewest sites that make a cohort.
    """

    def __init__(
        self, *, session: Session, terms: Terms, roster: Roster, invited: Collection[str], fewest: int = FEWEST
    ) -> None:
        self._session, self._terms, self._roster = session, terms, roster
        self._fewest = max(fewest, FEWEST)
        self._expects: type[ToServer] | None = None
        self._over = False
        self._waiting = set(invited)
        self._cohort: dict[str, Advertisement] = {}
        self._boxes: dict[str, Mapping[str, Boxes]] = {}
        self._sum: masks.Residues = np.zeros(0, dtype=masks.WORDS[terms.bits])
        self._inputs: dict[str, bytes] = {}
        self._signatures: dict[str, str] = {}
        self._shares: dict[str, Mapping[str, bytes]] = {}
        self.at_fault: set[str] = set()
        """Sites that dealt shares which do not meet in a secret; whoever delivers messages adds those refused."""

    @property
    def waiting(self) -> frozenset[str]:
        """Sites whose answer to this exchange is out."""
        return frozenset(self._waiting)

    @property
    def survivors(self) -> tuple[str, ...]:
        """Sites whose masked sums were added so far; from the fourth exchange on, those of the sum."""
        return tuple(sorted(self._inputs))

    def lose(self, site: str) -> None:
        """Wait no longer for a site."""
        self._waiting.discard(site)

    def proceed(self) -> dict[str, ToSite]:
        """Close an exchange, whoever is still waited for, and return the messages of the next by site.

        Raises
        ------
        FedReasonError
            SECAGG_INCOMPLETE where too few are left, which ends the session.
        """
        messages: Mapping[str, ToSite]
        session = self._session.id
        if self._over or self._expects is Revealed:
            raise _out_of_turn("Nothing follows")
        if self._expects is None:
            messages = dict.fromkeys(sorted(self._waiting), Opening(session))
            self._expects = Advertisement
        elif self._expects is Advertisement:
            self._enough(len(self._cohort), self._fewest)
            self._cohort = {site: self._cohort[site] for site in sorted(self._cohort)}
            messages = dict.fromkeys(self._cohort, Directory(session, tuple(self._cohort.values())))
            self._expects = Shares
        elif self._expects is Shares:
            self._enough(len(self._boxes), threshold(len(self._cohort)))
            self._sum = np.zeros(self._terms.size, dtype=self._sum.dtype)
            senders = sorted(self._boxes)
            messages = {
                site: Inbox(session, {sender: self._boxes[sender][site] for sender in senders}) for site in senders
            }
            self._expects = Masked
        elif self._expects is Masked:
            self._enough(len(self._inputs), self._statement.fewest)
            messages = dict.fromkeys(self.survivors, Survivors(session, {s: self._inputs[s] for s in self.survivors}))
            self._expects = Consent
        else:
            self._enough(len(self._signatures), self._statement.fewest)
            messages = dict.fromkeys(sorted(self._signatures), Consents(session, dict(self._signatures)))
            self._expects = Revealed
        self._waiting = set(messages)
        return dict(messages)

    def take(self, message: ToServer) -> None:
        """Take a site's first answer in an exchange. Who delivers it has to know that it comes from that site.

        Raises
        ------
        FedReasonError
            SECAGG_TURN for what nobody waits for: late, twice, of another session. Otherwise by number and name what
            is wrong with it; that site is then lost.
        """
        site = message.site
        expected = self._expects is not None and isinstance(message, self._expects)
        if self._over or message.session != self._session.id or not expected or site not in self._waiting:
            raise _out_of_turn(f"A {type(message).__name__} of {site} is not waited for")
        self._waiting.discard(site)
        match message:
            case Advertisement():
                self._take_keys(message)
            case Shares():
                if set(message.boxes) != set(self._cohort):
                    raise _bad_share(f"{site} dealt shares to others than the cohort")
                self._boxes[site] = message.boxes
            case Masked():
                self._add(message)
            case Consent():
                if not self._statement.holds(site, message.signature, self._roster):
                    raise FedReasonError(
                        Code.SECAGG_SURVIVORS, f"{site} signed something else than the others see.", _ANEW
                    )
                self._signatures[site] = message.signature
            case Revealed():
                self._take_shares(message)

    def total(self, *, threads: int = 1) -> Integers:
        """Unmask the sum of the survivors and return it [size]; once.

        Parameters
        ----------
        threads
            How many share the work: a keystream as long as the sum for every survivor, and one for every pair of a
            lost site and a survivor.

        Raises
        ------
        FedReasonError
            SECAGG_INCOMPLETE where fewer than t have revealed their shares; SECAGG_SHARE, with the name of the site,
            where the shares that a site dealt do not meet in its secret.
        """
        if self._over or self._expects is not Revealed:
            raise _out_of_turn("There is no sum yet, or no more")
        self._enough(len(self._shares), threshold(len(self._cohort)))
        self._over = True
        masks.apply(self._left(), self._sum, threads=threads)
        total = masks.integers(self._sum)
        self._sum = self._sum[:0]
        return total

    @property
    def _statement(self) -> Statement:
        """What the sites sign, as the coordinator sees it."""
        cohort = {site: advertisement_digest(told) for site, told in self._cohort.items()}
        inputs = {site: self._inputs[site] for site in self.survivors}
        return Statement(self._session.id, self._terms, cohort, tuple(sorted(self._boxes)), inputs)

    def _enough(self, there: int, needed: int) -> None:
        if there < needed:
            self._over = True
            self._waiting.clear()
            raise FedReasonError(
                Code.SECAGG_INCOMPLETE, f"{there} sites are left in the secure sum, and it takes {needed}.", _ANEW
            )

    def _take_keys(self, told: Advertisement) -> None:
        taken = {key for other in self._cohort.values() for key in (other.mask_key, other.envelope_key)}
        fresh = taken.isdisjoint({told.mask_key, told.envelope_key}) and told.mask_key != told.envelope_key
        if not fresh or not advertisement_holds(told, self._session.id, self._roster):
            raise FedReasonError(
                Code.SECAGG_KEYS,
                f"The keys of {told.site} are not its own for this session, or not signed by its key in the roster.",
                "The session goes on without it. Ask by telephone which keys it has.",
            )
        self._cohort[told.site] = told

    def _add(self, message: Masked) -> None:
        words = message.words
        if words.shape != self._sum.shape or words.dtype != self._sum.dtype:
            raise FedReasonError(
                Code.RUN_REPLY,
                f"The masked sum of {message.site} has another length or lattice.",
                "Install the same version of fedreason everywhere.",
            )
        np.add(self._sum, words, out=self._sum)
        self._inputs[message.site] = masks.digest(words)

    def _take_shares(self, message: Revealed) -> None:
        holder = message.site
        if set(message.shares) != set(self._boxes):
            raise _bad_share(f"{holder} revealed shares of others than those who dealt")
        for dealer, share in message.shares.items():
            kind = self._kind(dealer)
            boxes = self._boxes[dealer][holder]
            committed = (boxes.seed if kind == "seed" else boxes.key).commitment
            place = Place(self._session.id, dealer, holder, kind)
            if commitment(int.from_bytes(share, "big"), place) != committed:
                raise _bad_share(f"{holder} revealed another share than {dealer} dealt to it")
        self._shares[holder] = message.shares

    def _kind(self, dealer: str) -> Kind:
        return "seed" if dealer in self._inputs else "key"

    def _left(self) -> list[masks.Mask]:
        """Return what has to be added to the sum: each survivor's own mask taken off, each lost site's masks put on."""
        session, left = self._session.id, []
        for dealer in self._boxes:
            secret = self._secret(dealer)
            if dealer in self._inputs:
                left.append(own_mask(secret, session, dealer)._replace(add=False))
                continue
            key = X25519PrivateKey.from_private_bytes(secret)
            for peer in self._inputs:
                left.append(pair_mask(key, self._cohort[peer].mask_key, session, site=dealer, peer=peer))
        return left

    def _secret(self, dealer: str) -> bytes:
        points = {site: number for number, site in enumerate(self._cohort, start=1)}
        holders = list(self._shares)[: threshold(len(self._cohort))]
        told = self._cohort[dealer]
        try:
            secret = shamir.recover(
                {points[holder]: int.from_bytes(self._shares[holder][dealer], "big") for holder in holders}
            )
        except ValueError:
            meets = False
        else:
            meets = (
                seed_commitment(secret, self._session.id, dealer) == told.seed
                if dealer in self._inputs
                else X25519PrivateKey.from_private_bytes(secret).public_key().public_bytes_raw() == told.mask_key
            )
        if not meets:
            self.at_fault.add(dealer)
            raise _bad_share(f"The shares that {dealer} dealt do not meet in its secret")
        return secret


def _out_of_turn(what: str) -> FedReasonError:
    return FedReasonError(Code.SECAGG_TURN, f"{what}.", "Nothing was changed by it.")


def _bad_share(what: str) -> FedReasonError:
    return FedReasonError(Code.SECAGG_SHARE, f"{what}.", "Ask for the round in another attempt, without that site.")
