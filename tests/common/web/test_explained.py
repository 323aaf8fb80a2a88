"""A number on a page leads to its own section of docs/errors.md, which the package carries; nothing else is a link."""

from __future__ import annotations

import re
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from html import escape, unescape
from pathlib import Path

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import Code, FedReasonError
from common.pages.page import Link, Section, facts, html_table, paragraph
from common.web.app import Pages
from common.web.explained import explained, linked
from common.web.visit import Answer, Document, Place, Visit
from tests.common.web.served import served, visitor
from tests.paths import ROOT

DOCUMENT = (ROOT / "docs" / "errors.md").read_text()
LINK = re.compile(r'<a href="/errors/\d{3}">(E\d{3})</a>')


def shown(visit: Visit) -> Answer:
    return Document("Desk", "", [Section("Now", paragraph("amc refused: E832 policy refused"))])


def of_records(visit: Visit) -> Answer:
    return Document("Desk", "", [Section("Now", paragraph("Diagnosis: E872"))], records=True)


def refused(visit: Visit) -> Answer:
    raise FedReasonError(Code.RUN_UNKNOWN, "There is no such run.", "Say another.")


@pytest.fixture(scope="module")
def link() -> Iterator[str]:
    places = [Place("/", shown), Place("/records", of_records), Place("/refused", refused)]
    with served(Pages("Desk", places)) as found:
        yield found


def words(html: str) -> list[str]:
    return re.findall(r"\w+", unescape(re.sub(r"<[^>]+>", " ", html)))


@pytest.mark.parametrize("code", list(Code))
def test_the_page_of_a_number_holds_every_word_of_its_section(code: Code) -> None:
    body = re.split(rf"^## E{code.value} {code.name}$", DOCUMENT, flags=re.MULTILINE)[1].partition("\n## ")[0]
    text = re.sub(r"\]\([^)]*\)", "]", body)
    assert words(explained()[code.value].body) == re.findall(r"\w+", text)
    assert explained()[code.value].name == code.name


def test_a_number_on_a_page_leads_to_its_section_and_so_does_that_of_a_refused_page(link: str) -> None:
    client = visitor(link)
    assert '<a href="/errors/832">E832</a> policy refused' in client.get("/").text
    assert '<a href="/errors/911">E911</a>' in client.get("/refused").text
    page = client.get("/errors/832").text
    assert "E832: policy refused" in page and "policy.toml" in page
    assert f'href="/errors/{int(Code.PAGES_EXPOSED)}"' in client.get("/errors").text


def test_no_section_leads_out_of_the_pages(link: str) -> None:
    client = visitor(link)
    for path in ("/errors", *(f"/errors/{code.value}" for code in Code)):
        leads = set(re.findall(r'href="([^"]*)"', client.get(path).text))
        assert all(re.fullmatch(r"/(errors(/\d{3})?|style\.css|icon\.svg)|#[a-z-]+", one) for one in leads), leads


def test_what_may_be_a_diagnosis_is_none_of_our_numbers(link: str) -> None:
    text = visitor(link).get("/records").text
    assert "Diagnosis: E872" in text and "/errors/" not in text


@pytest.mark.parametrize("number", ["999", "000", "83", "8320", "%3Cscript%3E", "..%2F..%2Fetc", "E", "٨٣٢"])
def test_a_number_that_nobody_gave_has_no_section_and_is_not_repeated(link: str, number: str) -> None:
    answer = visitor(link).get(f"/errors/{number}")
    assert answer.status_code in (200, 404)
    assert "No such number" in answer.text or "no such page" in answer.text
    assert "<script" not in answer.text


def test_whoever_has_not_come_in_is_sent_to_the_door(link: str) -> None:
    assert httpx.Client(base_url=link.partition("/enter")[0]).get("/errors/832").status_code == 303


@given(
    st.lists(
        st.one_of(st.text(max_size=20), st.sampled_from([f"E{code.value}" for code in Code]), st.just("<a>E832")),
        max_size=6,
    )
)
def test_links_change_no_text_and_nothing_beside_text(texts: list[str]) -> None:
    """Also in an attribute, a link, a button or a drawing, where a number is left as it is."""
    told = " ".join(texts)
    plain = paragraph(told) + facts({told: told}) + html_table([told, told], [(told, Link(told, f"/{told}"))])
    plain += f'<button title="{escape(told)}">{escape(told)}</button><svg><title>{escape(told)}</title></svg>'
    made = linked(plain)
    assert LINK.sub(r"\1", made) == plain
    assert "/errors/" not in "".join(re.findall(r"<(?:button|svg).*?</(?:button|svg)>", made, re.DOTALL))
    alone = [one for one in texts if re.fullmatch(r"E\d{3}", one)]
    assert len(LINK.findall(linked("".join(map(paragraph, texts))))) >= len(alone)


@pytest.mark.long
def test_the_wheel_carries_the_sections(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    names = ("client", "common", "server", "simulation", "docs", "pyproject.toml", "README.md", "LICENSE")
    tree.mkdir()
    subprocess.run(["cp", "-r", *(str(ROOT / name) for name in names), str(tree)], check=True)
    options = ["-q", "--no-deps", "--no-build-isolation", "--disable-pip-version-check", "-w", str(tmp_path)]
    subprocess.run([sys.executable, "-m", "pip", "wheel", *options, str(tree)], check=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as file:
        assert file.read("common/web/assets/errors.md").decode() == DOCUMENT
