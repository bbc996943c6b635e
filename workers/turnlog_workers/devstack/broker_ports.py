"""Ports of the development broker: the wanted one, the remembered one, or a free one."""

import errno
import random
import socket
from dataclasses import dataclass

from turnlog_workers.base.errors import EXIT_USAGE
from turnlog_workers.devstack.broker_files import BrokerError, Say

HOST = "127.0.0.1"
DEFAULT_PORT = 9092
# Below every system's range for outgoing connections: a client that keeps trying a closed port of that range can be
# given the same port as its own, connects to itself and so keeps the restarted broker out.
_FREE_PORTS = range(20000, 30000)
_FREE_PORT_TRIES = 200


class PortTakenError(BrokerError):
    """The port that was asked for belongs to another process."""

    exit_code = EXIT_USAGE


@dataclass(frozen=True, slots=True, kw_only=True)
class Ports:
    """Where clients connect, and the controller's own port, both on 127.0.0.1."""

    client: int
    controller: int


def is_free(port: int) -> bool:
    """Whether a server could listen on ``port`` now. Connections that linger from an earlier server do not count."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
            probe.listen(1)
        except OSError as error:
            if error.errno in (errno.EADDRINUSE, errno.EACCES):
                return False
            raise
    return True


def free_port(taken: frozenset[int] = frozenset()) -> int:
    """A free port, none of ``taken``; random, so that brokers which start together do not meet."""
    for port in random.sample(_FREE_PORTS, _FREE_PORT_TRIES):
        if port not in taken and is_free(port):
            return port
    raise BrokerError(f"No free port found between {_FREE_PORTS.start} and {_FREE_PORTS.stop - 1} on {HOST}.")


def choose_ports(*, port: int | None, preferred: int | None, remembered: Ports | None, say: Say) -> Ports:
    """The ports to start on.

    An explicit ``port`` is taken or refused (PortTakenError); without one it is the remembered port, else the
    ``preferred`` one (None: any), else a free one, which is said.
    """
    if port is not None:
        if not is_free(port):
            raise PortTakenError(
                f"Port {port} on {HOST} is already in use by another program. Stop that program, name another port, "
                f"or name none: then a free one is chosen."
            )
        client = port
    else:
        wanted = remembered.client if remembered else preferred
        if wanted is not None and is_free(wanted):
            client = wanted
        else:
            client = free_port()
            if wanted is not None:
                say(f"port {wanted} is already in use by another program; using {client} instead")
    if remembered and remembered.controller != client and is_free(remembered.controller):
        return Ports(client=client, controller=remembered.controller)
    return Ports(client=client, controller=free_port(frozenset({client})))


def choose_http_port(*, port: int | None, preferred: int, say: Say) -> int:
    """Where the HTTP front listens: the port that was asked for, else the preferred, else a free one, which is said.

    Raises PortTakenError for one that was asked for and is taken.
    """
    if port is not None and not is_free(port):
        raise PortTakenError(f"Port {port} on {HOST} is already in use by another program. Name another with --http.")
    wanted = preferred if port is None else port
    if is_free(wanted):
        return wanted
    chosen = free_port()
    say(f"port {wanted} is already in use by another program; HTTP is on {chosen} instead")
    return chosen
