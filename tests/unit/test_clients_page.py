"""docs/clients.md against the conformance kit: what it says was tried is what the kit has, as it must be."""

import json

import pytest

from tests.clients.cases import BY_NAME, CASES
from tests.clients.catalog import CLIENTS, HERE, Client
from tests.clients.report import PAGE, YES, outcomes, page_of, read_result


def test_the_page_is_the_last_result() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert page_of(page, read_result()) == page


def test_the_last_result_is_of_these_clients_and_cases_and_all_of_it_is_right() -> None:
    result = read_result()
    assert {name: found["cases"] for name, found in result.items()} == {
        client.name: outcomes(client) for client in CLIENTS
    }
    assert {found["worker_deaths"] for found in result.values()} == {0}


@pytest.mark.parametrize("client", CLIENTS, ids=lambda client: client.name)
def test_the_last_result_is_of_the_pinned_version(client: Client) -> None:
    version = read_result()[client.name]["version"]
    assert version.split()[0] == client.pinned.removeprefix("v")


def test_names_are_unique_and_what_a_client_cannot_is_asked_for_by_a_case() -> None:
    assert len(BY_NAME) == len(CASES)
    needed = {need for case in CASES for need in case.needs}
    for client in CLIENTS:
        assert set(client.cannot) <= needed
        assert YES in outcomes(client).values()


def test_the_node_lock_names_no_address_and_checks_every_package() -> None:
    lock = json.loads((HERE / "node" / "package-lock.json").read_text(encoding="utf-8"))
    packages = {name: package for name, package in lock["packages"].items() if name}
    assert packages
    for name, package in packages.items():
        assert "resolved" not in package, name
        assert package["integrity"].startswith("sha512-"), name


def test_a_page_without_marks_is_said() -> None:
    with pytest.raises(ValueError, match="no marks"):
        page_of("no page", read_result())
