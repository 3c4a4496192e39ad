"""Whatever the API's schema allows, and what it does not: every answer is one that the schema announces, and none is a failure."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from assay import models
from assay.store import Store
from assay.web.app import create
from assay.web.shelf import Shelf
from tests.features.made import entry
from tests.web.serving import running

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import schemathesis
    from schemathesis.checks import not_a_server_error
    from schemathesis.specs.openapi.checks import content_type_conformance, response_schema_conformance, status_code_conformance

CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
THERE = {"name": "mine", "coder": "mine", "latent": 7, "list": 1, "entry": 1}
"""What stands in addresses half of the time: else nothing would be found behind any of them."""


with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    schema = schemathesis.openapi.from_path(Path(__file__).parents[2] / "web-ui" / "openapi.json")


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    """Of a server over a store with one harvested coder, and with a live model."""
    store = Store(tmp_path_factory.mktemp("schema") / "store")
    entry(store)
    with running(create(Shelf(store, models.load("tiny")))) as found:
        yield found


@pytest.mark.filterwarnings("ignore")
@schema.parametrize()
@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True, database=None)
def test_every_answer_is_announced(case, address):
    for name, value in (case.path_parameters or {}).items():
        if name in THERE and len(str(value)) % 2:
            case.path_parameters[name] = THERE[name]
    case.call_and_validate(base_url=address, checks=CHECKS)
