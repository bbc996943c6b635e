"""Which ports the development broker uses, and what is said when one is taken."""

import socket
from collections.abc import Iterator

import pytest

from turnlog_workers.devstack.broker_ports import (
    Ports,
    PortTakenError,
    choose_http_port,
    choose_ports,
    free_port,
    is_free,
)


@pytest.fixture
def taken_port() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def test_a_listening_server_takes_the_port_and_a_lingering_connection_does_not() -> None:
    port = free_port()
    with socket.create_server(("127.0.0.1", port)) as server:
        assert not is_free(port)
        with socket.create_connection(("127.0.0.1", port)):
            server.accept()[0].close()  # the side that closes first lingers
    assert is_free(port)


def test_explicit_port() -> None:
    port = free_port()
    chosen = choose_ports(port=port, preferred=1, remembered=Ports(client=2, controller=3), say=pytest.fail)
    assert chosen.client == port
    assert chosen.controller != port


def test_explicit_port_that_is_taken_is_an_error(taken_port: int) -> None:
    with pytest.raises(PortTakenError, match=f"Port {taken_port} .*already in use"):
        choose_ports(port=taken_port, preferred=None, remembered=None, say=pytest.fail)


def test_preferred_port_that_is_taken_is_replaced_and_said(taken_port: int) -> None:
    said: list[str] = []
    chosen = choose_ports(port=None, preferred=taken_port, remembered=None, say=said.append)
    assert chosen.client != taken_port
    assert is_free(chosen.client)
    assert len(said) == 1
    assert str(taken_port) in said[0]
    assert str(chosen.client) in said[0]


def test_remembered_ports_are_kept() -> None:
    remembered = Ports(client=free_port(), controller=free_port())
    assert choose_ports(port=None, preferred=1, remembered=remembered, say=pytest.fail) == remembered


def test_only_a_taken_controller_port_is_replaced(taken_port: int) -> None:
    remembered = Ports(client=free_port(), controller=taken_port)
    chosen = choose_ports(port=None, preferred=None, remembered=remembered, say=pytest.fail)
    assert chosen.client == remembered.client
    assert chosen.controller not in (taken_port, chosen.client)


def test_no_preference_is_any_free_port() -> None:
    chosen = choose_ports(port=None, preferred=None, remembered=None, say=pytest.fail)
    assert is_free(chosen.client)
    assert is_free(chosen.controller)
    assert chosen.client != chosen.controller


def test_http_has_the_port_that_was_asked_for_or_one_that_is_said(taken_port: int) -> None:
    said: list[str] = []
    with pytest.raises(PortTakenError, match="--http"):
        choose_http_port(port=taken_port, preferred=1, say=pytest.fail)
    free = free_port()
    assert choose_http_port(port=free, preferred=taken_port, say=pytest.fail) == free
    assert choose_http_port(port=None, preferred=free, say=pytest.fail) == free
    chosen = choose_http_port(port=None, preferred=taken_port, say=said.append)
    assert is_free(chosen)
    assert len(said) == 1
    assert f"HTTP is on {chosen}" in said[0]
