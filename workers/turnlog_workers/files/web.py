"""A file of an allowed host, over HTTPS. Redirects go only to what is allowed, too; no cookies, no proxy, no keys.

Addresses are looked at where they are used: a name that leads to this machine or into its network is not connected to,
whatever it led to a moment before.
"""

import ipaddress
import socket
from collections.abc import Callable
from urllib.parse import urljoin, urlsplit

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.http import HttpProcessingError

from turnlog_workers.runners.base import RunnerError

MAX_REDIRECTS = 3
_REDIRECTS = (301, 302, 303, 307, 308)
_TRY_AGAIN = (408, 425, 429, 500, 502, 503, 504)
_NAT64 = ipaddress.ip_network("64:ff9b::/96")  # RFC 6052: an IPv4 address is in its last 32 bits


class _PrivateAddressError(OSError):
    """A name leads into a private network."""


class _PublicResolver(AbstractResolver):
    """Looks names up, and hands out no address of a private network."""

    def __init__(self) -> None:
        self._inner = aiohttp.ThreadedResolver()

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        found = [one for one in await self._inner.resolve(host, port, family) if is_public(one["host"])]
        if not found:
            raise _PrivateAddressError(f"{host} is at no public address")
        return found

    async def close(self) -> None:
        await self._inner.close()


def is_public(address: str) -> bool:
    """Is it an address that anybody on the internet could reach? What is no address is not."""
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    if isinstance(found, ipaddress.IPv6Address):
        inner = found.ipv4_mapped or found.sixtofour
        if inner is None and found in _NAT64:
            inner = ipaddress.IPv4Address(int(found) & 0xFFFFFFFF)
        if inner is not None:
            found = inner
    return found.is_global and not found.is_multicast


def is_address(host: str) -> bool:
    """Is the host of a URI an address, or one in a spelling that is not looked up as a name (``127.1``)?"""
    return ":" in host or host.replace(".", "").isdigit()


async def fetch(
    uri: str,
    *,
    allows: Callable[[str], bool],
    private: bool,
    most_bytes: int,
    media_type: str,
    name: str,
) -> bytes:
    """The file; of one that is too long, more than ``most_bytes``. Raises :class:`RunnerError`.

    ``private``: may it be at an address of a private network? ``name``: what the file is called in reasons.
    """
    try:
        async with aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(resolver=None if private else _PublicResolver(), use_dns_cache=False),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            timeout=aiohttp.ClientTimeout(total=None),
            headers={"Accept": media_type, "Accept-Encoding": "identity", "User-Agent": "turnlog"},
        ) as session:
            return await _followed(session, uri, allows, private, most_bytes, name)
    except aiohttp.ClientConnectorDNSError as error:
        if isinstance(error.os_error, _PrivateAddressError):
            raise _private(name) from error
        raise RunnerError("file_unreachable", f"file {name!r}: its host is not known") from error
    except aiohttp.ClientSSLError as error:
        raise RunnerError("file_unreachable", f"file {name!r}: no secure connection", retryable=False) from error
    except (aiohttp.ClientError, HttpProcessingError, OSError) as error:
        reason = f"file {name!r} cannot be fetched ({type(error).__name__})"
        raise RunnerError("file_unreachable", reason) from error


async def _followed(
    session: aiohttp.ClientSession, uri: str, allows: Callable[[str], bool], private: bool, most_bytes: int, name: str
) -> bytes:
    for _ in range(MAX_REDIRECTS + 1):
        if not allows(uri):
            reason = f"file {name!r} is redirected to what is not allowed (setting TURNLOG_ALLOW_FILES)"
            raise RunnerError("file_not_allowed", reason, retryable=False)
        host = urlsplit(uri).hostname or ""
        if not private and is_address(host) and not is_public(host):
            raise _private(name)
        async with session.get(uri, allow_redirects=False) as response:
            if response.status not in _REDIRECTS:
                return await _body(response, most_bytes, name)
            uri = urljoin(uri, response.headers.get("Location", "").partition("#")[0])
    raise RunnerError("file_unreachable", f"file {name!r}: more than {MAX_REDIRECTS} redirects", retryable=False)


async def _body(response: aiohttp.ClientResponse, most_bytes: int, name: str) -> bytes:
    if response.status != 200:
        code = "file_unreachable" if response.status in _TRY_AGAIN else "file_not_found"
        reason = f"file {name!r}: its server answers {response.status}"
        raise RunnerError(code, reason, retryable=response.status in _TRY_AGAIN)
    if response.headers.get("Content-Encoding", "identity").strip().lower() != "identity":
        raise RunnerError("file_mismatch", f"file {name!r}: its server sends it compressed", retryable=False)
    pieces: list[bytes] = []
    size = response.content_length or 0
    if size > most_bytes:
        return bytes(most_bytes + 1)  # not worth a byte of it
    size = 0
    async for piece in response.content.iter_any():
        pieces.append(piece)
        size += len(piece)
        if size > most_bytes:
            break
    return b"".join(pieces)


def _private(name: str) -> RunnerError:
    reason = f"file {name!r} is at a private address (setting TURNLOG_FILE_PRIVATE_ADDRESSES)"
    return RunnerError("file_not_allowed", reason, retryable=False)
