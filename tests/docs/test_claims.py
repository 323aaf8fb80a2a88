"""What the kit, the guides and the templates say of what leaves, what is required and what is open, against the code.

Each sentence that holds one of WORDS has to be in CLAIMS, whose check fails where the code does something else.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from client.node.worker import Fleet, Lost
from client.policy.policy import Policy, load_policy
from common.codebook import load_codebook
from common.config import PrivacyConfig
from common.errors import Code
from common.identity.keys import new_node_key
from server.provisioning import deploy
from server.provisioning.deploy import render
from server.provisioning.federation import FederationConfig
from server.provisioning.provision import Provisioned
from server.services.supervision import superlink_command
from tests.federations import free_port, initiated, made, refused
from tests.paths import ROOT
from tests.small import small_config

KIT = ("server/templates/kit/README.txt", "server/templates/kit/site.toml", "server/templates/kit/policy.toml")
TEMPLATES = (
    *("client/templates/compose.yaml", "client/templates/systemd/fedreason-site@.service"),
    *(f"server/templates/deploy/{name}" for name in deploy.TEMPLATES),
)
WORDS = re.compile(
    r"\b(nois\w+|mask\w*|clipped|leaves?(?! it running)|private|privacy|opens? no|no port|required|port)\b",
    re.IGNORECASE,
)
"""A sentence of the kit or of a template with one of these words makes a promise."""
ABOUT_THE_HOST = re.compile(
    rf"{WORDS.pattern}|\b(nothing else|alone|read only|no root|cut off|refused|opens?|only the)\b", re.IGNORECASE
)
"""Of a template that starts a program: what it promises of the machine besides."""


def run(*, private: bool, **privacy: float) -> object:
    stated = {"clip_norm": 1.0, "noise_multiplier": 0.6, "delta": 1e-5} | privacy
    config = small_config(Path("tiny"))
    return config.model_copy(update={"privacy": PrivacyConfig(**stated) if private else None})


def a_run_without_privacy_is_refused_and_one_with_it_taken(made: Provisioned) -> None:
    policy = load_policy(made.kits[0])
    assert policy.requires_privacy and policy.metrics == "none"
    assert "privacy.required" in refused(Code.POLICY_REFUSED, lambda: policy.refuse(run(private=False))).found  # type: ignore[arg-type]
    policy.refuse(run(private=True))  # type: ignore[arg-type]


def less_noise_or_more_weight_is_refused(made: Provisioned) -> None:
    policy = load_policy(made.kits[0])
    for worse in ({"noise_multiplier": 0.59}, {"clip_norm": 1.01}, {"delta": 1.1e-5}):
        assert policy.problems(run(private=True, **worse))  # type: ignore[arg-type]


def masked_where_asked_for(made: Provisioned) -> None:
    masked = Policy.model_validate({"privacy": {"secure_aggregation": True}})
    assert any("secure_aggregation" in told for told in masked.problems(run(private=True)))  # type: ignore[arg-type]
    assert load_policy(made.kits[0]).privacy.secure_aggregation is False


def noise_is_not_shared(made: Provisioned) -> None:
    assert load_policy(made.kits[0]).privacy.shared_noise is False


def the_kit_states_the_defaults(made: Provisioned) -> None:
    stated, default = load_policy(made.kits[0]), Policy()
    privacy = default.privacy.model_copy(update={"required": True, "min_sites": 3})
    patient = default.patient.model_copy(update={"column": load_codebook(made.federation.codebook).patient})
    assert stated == default.model_copy(update={"privacy": privacy, "patient": patient})
    assert (stated.privacy.epsilon, stated.privacy.delta) == (8.0, 1e-5)


def a_kit_holds_no_secret_and_keys_stay(made: Provisioned) -> None:
    assert not any(b"PRIVATE" in path.read_bytes() for path in made.kits[0].iterdir())
    folder = initiated(made.federation, "amc")
    assert (folder / "keys").stat().st_mode & 0o077 == 0
    assert "PRIVATE" not in (folder / "request.json").read_text()


def a_site_listens_nowhere(made: Provisioned) -> None:
    sources = [path.read_text() for path in (ROOT / "client").rglob("*.py")]
    assert not any(re.search(r"\.listen\(|create_server\(|HTTPServer\(|\.bind\(", text) for text in sources)
    assert "ports:" not in (ROOT / "client" / "templates" / "compose.yaml").read_text()


def the_superlink_is_on_loopback_and_the_port_is_nginx_s(made: Provisioned) -> None:
    command = superlink_command(made.federation)
    assert command[command.index("--host") + 1] == "127.0.0.1"
    assert FederationConfig.model_fields["port"].default == 9092
    assert "listen 9092 ssl" in (render(made.federation) / "nginx.conf").read_text()


def nginx_hands_on_the_fleet_alone(made: Provisioned) -> None:
    text = (render(made.federation) / "nginx.conf").read_text()
    passed = re.findall(r"proxy_pass https://superlink(\S*);", text)
    assert passed and all(path.startswith("/v1/fleet/") for path in passed)
    assert re.search(r"location / \{\s*return 404;", text)


def nginx_turns_away_before_it_reads_a_body(made: Provisioned) -> None:
    text = (render(made.federation) / "nginx.conf").read_text()
    server = text[text.index("    server {") :]
    turned = [server.index(answer) for answer in ("return 444;", "return 401;")]
    assert max(turned) < server.index("location ")


def nginx_needs_no_root(made: Provisioned) -> None:
    folder = render(made.federation)
    user = Path(made.federation.folder).owner()
    assert f"user {user};" in (folder / "nginx.conf").read_text()
    unit = folder / "systemd" / "fedreason-proxy.service"
    assert f"User={user}" in unit.read_text() and "\nAmbientCapabilities=\n" in unit.read_text()
    low = made.federation.config.model_copy(update={"port": 443})
    render(dataclasses.replace(made.federation, config=low))
    assert "\nAmbientCapabilities=CAP_NET_BIND_SERVICE\n" in unit.read_text()


def a_burst_waits(made: Provisioned) -> None:
    text = (render(made.federation) / "nginx.conf").read_text()
    limits = re.findall(r"limit_req zone=\w+ (.*);", text)
    assert limits and all(re.fullmatch(r"burst=2000 delay=\d+", limit) for limit in limits)


def a_lost_connection_is_tried_again(made: Provisioned) -> None:
    fleet = Fleet(f"127.0.0.1:{free_port()}", made.federation.ca_certificate, new_node_key())
    with pytest.raises(Lost):  # the node waits and tries again: client/node/node.py
        fleet.connect(None)


def the_unit_of_a_site_writes_below_its_home_alone(made: Provisioned) -> None:
    unit = (ROOT / "client" / "templates" / "systemd" / "fedreason-site@.service").read_text()
    assert "ProtectSystem=strict" in unit
    assert re.findall(r"^ReadWritePaths=(.*)$", unit, re.MULTILINE) == ["/var/lib/fedreason"]


Check = Callable[[Provisioned], None]
CLAIMS: dict[str, tuple[str, Check]] = {
    "opens no port": (
        r"no port is opened|It opens no port|outbound TCP connection|Nothing connects to",
        a_site_listens_nowhere,
    ),
    "keys stay": (r"private keys are made on your machine", a_kit_holds_no_secret_and_keys_stay),
    "policy requires privacy": (
        r"refuses every run without differential privacy|only runs with differential privacy|no record, ?|"
        r"privacy officer|\[privacy\]|\(differential privacy\)",
        a_run_without_privacy_is_refused_and_one_with_it_taken,
    ),
    "clipped and noised": (
        r"clipped and noised here before it leaves|Least noise|share the noise|adds all the noise",
        less_noise_or_more_weight_is_refused,
    ),
    "masked where asked for": (r"Only in a run with secure aggregation|sums must be masked", masked_where_asked_for),
    "noise of its own": (r"may add less than all the noise|rely on most of the other sites", noise_is_not_shared),
    "defaults": (
        r"Which counts leave your hospital: \"none\"|\"noised\" for held-out questions|"
        r"Keep \"none\" or \"noised\"|What leaves|5 is advised|Below 0\.6|only address",
        the_kit_states_the_defaults,
    ),
    "where to read more": (
        r"docs/privacy\.md|never leaves: python -m client training|which GPU",
        the_kit_states_the_defaults,
    ),
    "loopback": (
        r"listen on 127\.0\.0\.1 alone|9092 unless you said",
        the_superlink_is_on_loopback_and_the_port_is_nginx_s,
    ),
    "nginx": (r"reach /v1/fleet/", nginx_hands_on_the_fleet_alone),
    "at the door": (
        r"is cut off here without an answer|no admitted site has is refused here|only the SuperLink can tell",
        nginx_turns_away_before_it_reads_a_body,
    ),
    "no root": (r"It needs no root", nginx_needs_no_root),
    "cut off": (r"a site that is cut off so tries again", a_lost_connection_is_tried_again),
    "bursts": (r"a burst being slowed down, not refused", a_burst_waits),
    "own folder": (r"writes below /var/lib/fedreason alone", the_unit_of_a_site_writes_below_its_home_alone),
    "guide": (
        r"only differentially private runs may use the records|clipped and noised in a private run|"
        r"A policy refuses such runs",
        a_run_without_privacy_is_refused_and_one_with_it_taken,
    ),
}
"""Claim -> how its sentences read, and what has to hold."""


def sentences(path: str) -> list[str]:
    text = (ROOT / path).read_text(encoding="utf-8")
    if path not in ("server/templates/kit/README.txt",):
        text = "\n".join(
            line.strip().removeprefix("#").strip() if line.strip().startswith("#") else "" for line in text.splitlines()
        )
    paragraphs = [" ".join(part.split()) for part in re.split(r"\n\s*\n", text)]
    return [sentence for part in paragraphs for sentence in re.split(r"(?<=[.;!?]) (?=\S)", part) if sentence]


@pytest.mark.parametrize("path", [*KIT, *TEMPLATES])
def test_a_sentence_of_kit_or_template_that_promises_something_is_a_claim_with_a_check(path: str) -> None:
    words = WORDS if path in KIT else ABOUT_THE_HOST
    bare = [
        one for one in sentences(path) if words.search(one) and not any(re.search(p, one) for p, _ in CLAIMS.values())
    ]
    assert bare == []


@pytest.mark.parametrize("claim", CLAIMS)
def test_a_claim_is_made_and_true(claim: str, tmp_path: Path) -> None:
    pattern, check = CLAIMS[claim]
    guides = [*KIT, *TEMPLATES, "docs/coordinator.md", "docs/hospital.md"]
    texts = [" ".join(re.sub(r"\n *#", "\n", (ROOT / path).read_text()).split()) for path in guides]
    unsaid = [one for one in re.split(r"(?<!\\)\|", pattern) if not any(re.search(one, text) for text in texts)]
    assert unsaid == []
    check(made(tmp_path, port=9092))
