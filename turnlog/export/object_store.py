"""The object store that holds a lake's data: from where its address and credentials come.

They are in the environment, under the names that every tool for S3 knows, or in a secret that somebody made in DuckDB.
"""

import os
from collections.abc import Mapping
from urllib.parse import urlsplit

import duckdb

from turnlog.errors import UsageError

S3 = "s3://"
_KEY, _SECRET, _TOKEN = "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"
_REGIONS = ("AWS_REGION", "AWS_DEFAULT_REGION")
_ENDPOINTS = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")
_CA_BUNDLE = "AWS_CA_BUNDLE"
_DEFAULT_REGION = "us-east-1"


def set_credentials(connection: duckdb.DuckDBPyConnection, place: str) -> None:
    """Let the connection into the object store of ``place``; does nothing for a folder. Needs DuckDB's ``httpfs``.

    The environment goes before DuckDB's own secrets, as it does before files in other tools. Raises
    :class:`UsageError` where neither says anything.
    """
    if not place.startswith(S3):
        return
    if bundle := os.environ.get(_CA_BUNDLE):
        connection.execute("SET ca_cert_file = $1", [bundle])
    options = _from_environment(os.environ)
    if options is not None:
        # A secret for just this place: no other one is nearer to it.
        options["SCOPE"] = place.rstrip("/") + "/"
        # Values as parameters: an error that quotes the statement does not quote them.
        names = ", ".join(f"{name} ${name}" for name in options)
        connection.execute(f"CREATE OR REPLACE TEMPORARY SECRET turnlog (TYPE s3, {names})", options)
    elif not connection.execute("FROM which_secret(?, 's3')", [place]).fetchall():
        raise UsageError(
            f"{place} needs credentials, and nothing was exported: set {_KEY} and {_SECRET} ({_TOKEN}, {_REGIONS[0]} "
            f"and {_ENDPOINTS[1]} if the store wants them), or make a secret in DuckDB (CREATE PERSISTENT SECRET …)"
        )


def without_secrets(text: str) -> str:
    """The text of an error without what the environment keeps secret."""
    for name in (_SECRET, _TOKEN):
        if value := os.environ.get(name):
            text = text.replace(value, "…")
    return text


def _from_environment(environ: Mapping[str, str]) -> dict[str, str | bool] | None:
    """Options of a secret; ``None``: the environment has no credentials. Raises :class:`UsageError`."""
    key, secret = environ.get(_KEY, ""), environ.get(_SECRET, "")
    if not key and not secret:
        return None
    if not key or not secret:
        raise UsageError(f"{_SECRET if key else _KEY} is not set, and {_KEY if key else _SECRET} is: both are needed")
    options: dict[str, str | bool] = {"KEY_ID": key, "SECRET": secret, "REGION": _first(environ, _REGIONS)[1]}
    options["REGION"] = options["REGION"] or _DEFAULT_REGION
    if token := environ.get(_TOKEN):
        options["SESSION_TOKEN"] = token
    name, endpoint = _first(environ, _ENDPOINTS)
    if endpoint:
        options |= _place_of(name, endpoint)
    return options


def _first(environ: Mapping[str, str], names: tuple[str, ...]) -> tuple[str, str]:
    return next(((name, environ[name]) for name in names if environ.get(name)), (names[0], ""))


def _place_of(name: str, endpoint: str) -> dict[str, str | bool]:
    """A store that is not Amazon's: its buckets are in the path, as only few give them host names."""
    address = urlsplit(endpoint)
    if address.scheme not in ("http", "https") or not address.netloc or "@" in address.netloc:
        raise UsageError(f"{name} is no address of an object store: write https://HOST, https://HOST:PORT or http://…")
    return {
        "ENDPOINT": address.netloc + address.path.rstrip("/"),
        "USE_SSL": address.scheme == "https",
        "URL_STYLE": "path",
    }
