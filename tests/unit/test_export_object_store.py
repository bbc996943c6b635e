"""Exports into a lake whose data is in an object store: killed, erased, read elsewhere, and without its credentials."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import duckdb
import pytest
from typer.testing import CliRunner

from tests.exported import GrowingSnapshot, lake_problems
from tests.object_store import BUCKET, KEY_ID, REGION, SECRET, TOKEN, ObjectStore, object_store
from tests.postgres import Postgres
from tests.secured_broker import Authority
from turnlog.cli.app import app
from turnlog.errors import TurnlogError, UsageError
from turnlog.export.lake import export_to_lake, load_extensions
from turnlog.export.source import literal

ROOT = Path(__file__).resolve().parents[2]
DATA = f"s3://{BUCKET}/chats"
_VARIABLES = (
    *("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_REGION", "AWS_DEFAULT_REGION"),
    *("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_CA_BUNDLE"),
)
_READER = """
import sys
from pathlib import Path
import duckdb, duckdb_extension_ducklake, duckdb_extension_httpfs
connection = duckdb.connect(config={"autoinstall_known_extensions": False})
for package in (duckdb_extension_ducklake, duckdb_extension_httpfs):
    (file,) = Path(package.__file__).parent.glob(f"extensions/v{duckdb.__version__}/*.duckdb_extension")
    connection.execute(f"LOAD '{file}'")
connection.execute(sys.argv[1])
print(connection.execute(sys.argv[2]).fetchall())
"""


@pytest.fixture
def snapshot(tmp_path: Path) -> GrowingSnapshot:
    grown = GrowingSnapshot(tmp_path / "snapshot.duckdb")
    grown.grow()
    return grown


@pytest.fixture
def address(tmp_path: Path) -> str:
    return f"ducklake:{tmp_path / 'chats.ducklake'}"


@pytest.fixture(autouse=True)
def nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No credentials and no secrets but the test's own."""
    for name in _VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ObjectStore]:
    with object_store(tmp_path / "store") as running:
        for name, value in running.environ.items():
            monkeypatch.setenv(name, value)
        yield running


def test_an_object_store_gets_what_is_new_and_another_process_reads_it(
    snapshot: GrowingSnapshot, address: str, store: ObjectStore, tmp_path: Path
) -> None:
    first = export_to_lake(snapshot.path, address, data=DATA)
    stored = store.objects()
    assert stored
    assert all(path.is_relative_to(store.folder / BUCKET / "chats") for path in stored)
    assert export_to_lake(snapshot.path, address).rows == 0
    assert store.objects() == stored
    snapshot.grow(20)
    second = export_to_lake(snapshot.path, address)  # the catalog knows where its data is
    assert 0 < second.rows < first.rows
    assert len(store.objects()) > len(stored)
    assert lake_problems(snapshot.path, address) == []
    wanted = "SELECT session_id, message_seq, content FROM {} ORDER BY ALL"
    with duckdb.connect(str(snapshot.path), read_only=True) as connection:
        expected = connection.execute(wanted.format("internal.messages")).fetchall()
    read = f"CREATE SECRET ({_secret(store)}); ATTACH '{address}' AS lake (READ_ONLY)"
    command = [sys.executable, "-c", _READER, read, wanted.format("lake.main.messages")]
    environ = {name: value for name, value in os.environ.items() if name not in _VARIABLES}
    assert subprocess.run(command, env=environ, capture_output=True, text=True, check=True).stdout == f"{expected}\n"


@pytest.mark.parametrize("where", ["export.lake_table:1", "export.lake_table:4", "export.lake_commit:1"])
def test_an_export_into_an_object_store_is_all_or_nothing(
    snapshot: GrowingSnapshot, address: str, store: ObjectStore, where: str
) -> None:
    export_to_lake(snapshot.path, address, data=DATA)
    before = store.objects()
    snapshot.grow(100)
    assert _killed_at(where, snapshot.path, address) == -9
    assert len(store.objects()) > len(before), "it was killed before it had stored anything"
    assert export_to_lake(snapshot.path, address).rows > 0
    assert lake_problems(snapshot.path, address) == []
    left = len(store.objects())
    _in_the_lake(address, store, "CALL ducklake_delete_orphaned_files('lake', cleanup_all => true)")
    assert len(store.objects()) < left
    assert lake_problems(snapshot.path, address) == []


def test_a_catalog_in_postgres_and_data_in_an_object_store(
    snapshot: GrowingSnapshot, store: ObjectStore, postgres: Postgres
) -> None:
    address = f"ducklake:postgres:{postgres.parameters}"
    export_to_lake(snapshot.path, address, data=DATA, schema="chat")
    snapshot.grow(100)
    assert _killed_at("export.lake_commit", snapshot.path, address, "chat") == -9
    assert export_to_lake(snapshot.path, address, schema="chat").rows > 0
    assert lake_problems(snapshot.path, address, "chat") == []


def _killed_at(where: str, snapshot: Path, address: str, schema: str = "main") -> int:
    code = (
        "from pathlib import Path; from turnlog.export.lake import export_to_lake; "
        f"export_to_lake(Path({str(snapshot)!r}), {address!r}, schema={schema!r})"
    )
    environ = {**os.environ, "TURNLOG_CRASH_AT": where}
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environ, check=False).returncode


def test_what_was_erased_is_in_no_object_once_the_lakes_history_is_removed(
    snapshot: GrowingSnapshot, address: str, store: ObjectStore, tmp_path: Path
) -> None:
    with duckdb.connect(str(snapshot.path)) as connection:
        connection.execute("UPDATE internal.messages SET content = 'Zugspitze' WHERE session_id = 's-7'")
    export_to_lake(snapshot.path, address, data=DATA)
    assert any(b"Zugspitze" in path.read_bytes() for path in store.objects())
    with duckdb.connect(str(snapshot.path)) as connection:
        connection.execute("UPDATE internal.messages SET content = NULL WHERE session_id = 's-7'")
        connection.execute(
            "INSERT INTO internal.events SELECT * REPLACE (1000 AS log_offset, 'SessionErased' AS type) "
            "FROM internal.events WHERE partition = 0 LIMIT 1"
        )
    export_to_lake(snapshot.path, address)
    assert lake_problems(snapshot.path, address) == []
    _in_the_lake(address, store, "CALL ducklake_expire_snapshots('lake', older_than => now())")
    _in_the_lake(address, store, "CALL ducklake_cleanup_old_files('lake', cleanup_all => true)")
    assert not any(b"Zugspitze" in path.read_bytes() for path in store.objects())
    assert lake_problems(snapshot.path, address) == []


def test_without_credentials_nothing_is_made(snapshot: GrowingSnapshot, address: str, tmp_path: Path) -> None:
    arguments = ["export", "--into", address, "--data", DATA, "--data-dir", str(tmp_path)]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 2
    assert "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY" in " ".join(result.stderr.split())
    assert not Path(address.removeprefix("ducklake:")).exists()


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("AWS_SECRET_ACCESS_KEY", "", "AWS_SECRET_ACCESS_KEY is not set"),
        ("AWS_ACCESS_KEY_ID", "", "AWS_ACCESS_KEY_ID is not set"),
        ("AWS_ENDPOINT_URL", "store.example:9000", "AWS_ENDPOINT_URL is no address"),
        ("AWS_ENDPOINT_URL_S3", "http://geheim@store", "AWS_ENDPOINT_URL_S3 is no address"),
    ],
)
def test_half_of_the_credentials_is_named(
    snapshot: GrowingSnapshot,
    address: str,
    store: ObjectStore,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    value: str,
    said: str,
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(UsageError, match=said) as caught:
        export_to_lake(snapshot.path, address, data=DATA)
    assert not any(secret in str(caught.value) for secret in (SECRET, TOKEN, "geheim"))


@pytest.mark.parametrize("name", ["AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"])
def test_a_refusal_says_so_and_tells_no_secret(
    snapshot: GrowingSnapshot, address: str, store: ObjectStore, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv(name, "not/the=right+one")
    with pytest.raises(TurnlogError, match="the object store refuses the credentials") as caught:
        export_to_lake(snapshot.path, address, data=DATA)
    assert not any(secret in str(caught.value) for secret in ("not/the=right+one", SECRET, TOKEN))
    assert caught.value.__cause__ is None
    monkeypatch.setenv(name, store.environ[name])
    assert export_to_lake(snapshot.path, address).rows > 0
    assert lake_problems(snapshot.path, address) == []


def test_a_secret_that_duckdb_keeps_will_do_and_the_environment_goes_before_it(
    snapshot: GrowingSnapshot, address: str, store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in _VARIABLES:
        monkeypatch.delenv(name, raising=False)
    with duckdb.connect() as connection:
        load_extensions(connection, address)
        connection.execute(f"CREATE PERSISTENT SECRET mine ({_secret(store)}, SCOPE {literal(DATA)})")
    export_to_lake(snapshot.path, address, data=DATA)
    assert lake_problems(snapshot.path, address) == []
    snapshot.grow()
    for name, value in (store.environ | {"AWS_SECRET_ACCESS_KEY": "another"}).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(TurnlogError, match="refuses the credentials"):
        export_to_lake(snapshot.path, address)


def _in_the_lake(address: str, store: ObjectStore, statement: str) -> None:
    with duckdb.connect() as connection:
        load_extensions(connection, address)
        connection.execute(f"CREATE SECRET ({_secret(store)}); ATTACH '{address}' AS lake")
        connection.execute(statement)


def test_a_store_behind_tls_must_have_a_certificate_that_is_trusted(
    snapshot: GrowingSnapshot, address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority = Authority(tmp_path, "ca")
    with object_store(tmp_path / "store", certificate=authority.issue("127.0.0.1")) as store:
        for name, value in store.environ.items():
            monkeypatch.setenv(name, value)
        with pytest.raises(TurnlogError, match="SSL peer certificate"):
            export_to_lake(snapshot.path, address, data=DATA)
        assert store.asked == []
        monkeypatch.setenv("AWS_CA_BUNDLE", str(authority.ca_file))
        assert export_to_lake(snapshot.path, address).rows > 0
        assert lake_problems(snapshot.path, address) == []


def _secret(store: ObjectStore) -> str:
    return (
        f"TYPE s3, KEY_ID {literal(KEY_ID)}, SECRET {literal(SECRET)}, SESSION_TOKEN {literal(TOKEN)}, "
        f"REGION {literal(REGION)}, ENDPOINT {literal(store.url.removeprefix('http://'))}, USE_SSL false, "
        "URL_STYLE 'path'"
    )
