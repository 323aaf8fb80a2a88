"""Refusals: numbered once, documented, and the same on the other side of a process boundary."""

from __future__ import annotations

import pickle
import re
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import pytest

from common.errors import Code, FedReasonError
from common.lattice import to_lattice
from tests.paths import ROOT

DOCUMENT = (ROOT / "docs" / "errors.md").read_text()
SOURCE = (ROOT / "common" / "errors.py").read_text()


def test_every_code_has_its_section_and_every_section_its_code() -> None:
    headings = re.findall(r"^## (.+)$", DOCUMENT, re.MULTILINE)
    assert headings == [f"E{code.value} {code.name}" for code in sorted(Code)]


def test_every_section_says_what_it_means_and_what_to_do() -> None:
    for section in re.split(r"^## .+$", DOCUMENT, flags=re.MULTILINE)[1:]:
        assert len(section.strip().split("\n\n")) >= 2


def test_no_two_refusals_share_a_number() -> None:
    numbers = re.findall(r"^    [A-Z_]+ = (\d+)$", SOURCE, re.MULTILINE)
    assert len(numbers) == len(set(numbers)) == len(Code.__members__)


@pytest.mark.parametrize("code", list(Code))
def test_a_message_has_its_number_what_was_found_and_what_to_do(code: Code) -> None:
    error = FedReasonError(code, "Something was found.", "Do something.")
    assert str(error) == f"E{code.value}: Something was found. Do something."


@pytest.mark.parametrize("code", list(Code))
def test_an_error_survives_pickling(code: Code) -> None:
    error = pickle.loads(pickle.dumps(FedReasonError(code, "found", "fix")))
    assert type(error) is FedReasonError
    assert (error.code, error.found, error.fix, str(error)) == (code, "found", "fix", f"E{code.value}: found fix")


def test_an_error_crosses_a_process_boundary_unchanged() -> None:
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        error = pool.submit(refuse).exception()
    assert isinstance(error, FedReasonError)
    assert error.code is Code.LATTICE_RANGE
    assert error.fix


def refuse() -> None:
    import numpy as np

    to_lattice(np.array([float("nan")]), 40)
