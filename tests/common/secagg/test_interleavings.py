"""Whatever is delivered, in whatever order, twice, changed, not at all or to a process that was killed: privacy holds.

A machine plays the network and a lying coordinator between one true coordinator and the sites, over several attempts.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from common.errors import FedReasonError
from common.secagg.messages import Advertisement, Consents, Revealed, ToServer, ToSite, message_of, parts_of
from common.secagg.terms import Noise, Terms, threshold
from tests.common.secagg.cohort import Cohort
from tests.examples import examples

INDEX = st.integers(0, 10_000)


def changed(message: Any, data: st.DataObject) -> Any:
    """Return a message with one value changed, left out or exchanged for another; None where that has no form."""
    parts = parts_of(message)
    head: dict[str, Any] = parts.head["message"]
    arrays = {name: array.copy() for name, array in parts.arrays.items()}
    if arrays and data.draw(st.booleans()):
        arrays["words"][data.draw(INDEX) % len(arrays["words"])] ^= 1
    else:
        _change(head, data)
    try:
        return message_of({**parts.head, "message": head}, arrays)
    except FedReasonError:
        return None


def _change(node: Any, data: st.DataObject) -> None:
    keys = sorted(node) if isinstance(node, dict) else list(range(len(node)))
    if not keys:
        return
    key = keys[data.draw(INDEX) % len(keys)]
    child = node[key]
    if isinstance(child, dict | list) and child and data.draw(st.integers(0, 3)):
        _change(child, data)
    elif data.draw(st.booleans()) and len(keys) > 1:
        other = keys[data.draw(INDEX) % len(keys)]
        node[key], node[other] = node[other], node[key]
    elif isinstance(child, str) and data.draw(st.booleans()):
        place = data.draw(INDEX) % len(child)
        node[key] = child[:place] + ("0" if child[place] != "0" else "1") + child[place + 1 :]
    else:
        del node[key]


class Network(RuleBasedStateMachine):
    """Messages on their way, and what came of them."""

    @initialize(count=st.integers(3, 6), private=st.booleans())
    def begin(self, count: int, private: bool) -> None:
        self.terms = Terms(size=5, bits=32, noise=Noise(100, 1, 1) if private and count > 3 else None)
        self.count = count
        self.down: list[tuple[str, ToSite]] = []
        self.up: list[ToServer] = []
        self.past: list[tuple[str, ToSite] | ToServer] = []
        self.answers: Counter[tuple[bytes, str, str]] = Counter()
        self.kinds: Counter[tuple[bytes, str, str]] = Counter()
        self.signers: list[tuple[int, int]] = []
        self.enough = threshold(count)
        self.over = False
        self.cohort = Cohort(count, terms=self.terms, attempt=1)
        self.attempt = 1
        self.lied = False

    def _to_site(self, name: str, message: ToSite, *, true: bool) -> None:
        self.past.append((name, message))
        site = self.cohort.sites[name]
        try:
            answer = site.take(message)
        except FedReasonError:
            return
        self.lied |= not true
        self.up.append(answer)
        self.answers[message.session, name, type(answer).__name__] += 1
        if isinstance(answer, Revealed):
            statement = site._statement
            assert statement is not None and isinstance(message, Consents)
            signed = [s for s, text in message.signatures.items() if statement.holds(s, text, self.cohort.roster)]
            self.signers.append((len(signed), statement.fewest))
            self.enough = min(self.enough, threshold(len(statement.cohort)))
            for dealer in answer.shares:
                self.kinds[message.session, dealer, "seed" if dealer in statement.inputs else "key"] += 1

    def _to_server(self, message: ToServer, *, true: bool) -> None:
        self.past.append(message)
        try:
            self.cohort.server.take(message)
        except FedReasonError:
            return
        self.lied |= not true

    @rule()
    def the_coordinator_proceeds(self) -> None:
        try:
            self.down += self.cohort.server.proceed().items()
        except FedReasonError:
            self._finish()

    def _finish(self) -> None:
        if self.over:
            return
        try:
            total = self.cohort.server.total()
        except FedReasonError:
            return
        self.over = True
        assert self.lied or np.array_equal(total, self.cohort.expected())

    @rule()
    def everything_arrives(self) -> None:
        down, self.down = self.down, []
        for name, message in down:
            self._to_site(name, message, true=True)
        up, self.up = self.up, []
        for answer in up:
            self._to_server(answer, true=True)

    @precondition(lambda self: self.down)
    @rule(index=INDEX)
    def one_arrives_at_a_site(self, index: int) -> None:
        self._to_site(*self.down.pop(index % len(self.down)), true=True)

    @precondition(lambda self: self.up)
    @rule(index=INDEX)
    def one_arrives_at_the_coordinator(self, index: int) -> None:
        self._to_server(self.up.pop(index % len(self.up)), true=True)

    @precondition(lambda self: self.down)
    @rule(index=INDEX)
    def one_is_lost(self, index: int) -> None:
        self.down.pop(index % len(self.down))

    @precondition(lambda self: self.past)
    @rule(index=INDEX)
    def one_comes_again(self, index: int) -> None:
        again = self.past[index % len(self.past)]
        if isinstance(again, tuple):
            self._to_site(*again, true=False)
        else:
            self._to_server(again, true=False)

    @precondition(lambda self: self.down)
    @rule(index=INDEX, data=st.data())
    def a_site_is_lied_to(self, index: int, data: st.DataObject) -> None:
        name, message = self.down[index % len(self.down)]
        lie = changed(message, data)
        if lie is not None and lie != message:
            self._to_site(name, lie, true=False)

    @precondition(lambda self: self.down)
    @rule(index=INDEX, other=INDEX)
    def a_site_gets_what_is_anothers(self, index: int, other: int) -> None:
        _, message = self.down[index % len(self.down)]
        self._to_site(sorted(self.cohort.sites)[other % self.count], message, true=False)

    @precondition(lambda self: self.up)
    @rule(index=INDEX, data=st.data())
    def the_coordinator_is_lied_to(self, index: int, data: st.DataObject) -> None:
        lie = changed(self.up[index % len(self.up)], data)
        if lie is not None:
            self._to_server(lie, true=False)

    @rule(index=INDEX)
    def a_site_is_killed(self, index: int) -> None:
        name = sorted(self.cohort.sites)[index % self.count]
        self.cohort.sites[name] = self.cohort.site(name)

    @precondition(lambda self: self.attempt < 3)
    @rule()
    def the_round_is_tried_again(self) -> None:
        self.attempt += 1
        self.cohort = Cohort(self.count, terms=self.terms, attempt=self.attempt, stores=self.cohort.stores)
        self.over, self.lied, self.down, self.up = False, False, [], []

    @invariant()
    def nothing_is_answered_twice(self) -> None:
        assert all(count == 1 for count in self.answers.values())

    @invariant()
    def no_secret_is_given_away_with_the_other_one(self) -> None:
        for session, dealer, _ in self.kinds:
            assert min(self.kinds[session, dealer, kind] for kind in ("seed", "key")) < self.enough

    @invariant()
    def nobody_reveals_before_enough_have_signed_the_same(self) -> None:
        assert all(signed >= fewest >= threshold(3) for signed, fewest in self.signers)


Network.TestCase.settings = examples(150, stateful_step_count=50)
test_privacy_holds_whatever_the_network_does = Network.TestCase


def test_the_machine_gets_as_far_as_a_sum() -> None:
    """Its honest path is the whole protocol: it would notice a wrong sum."""
    machine = Network()
    machine.begin(5, True)
    for _ in range(5):
        machine.the_coordinator_proceeds()
        machine.everything_arrives()
    machine.the_coordinator_proceeds()
    assert machine.over and not machine.lied
    assert sum(machine.kinds.values()) == 25
    assert Advertisement.__name__ in {kind for _, _, kind in machine.answers}
