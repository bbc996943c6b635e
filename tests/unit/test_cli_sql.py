"""``turnlog sql``: what it prints, and what it must not be able to do."""

import json
from pathlib import Path

import duckdb
import pytest
from typer.testing import CliRunner

from turnlog.cli.app import app


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    connection = duckdb.connect(str(tmp_path / "snapshot.duckdb"))
    connection.execute(
        "CREATE TABLE sessions AS SELECT 'web-' || i AS session_id, i::INTEGER AS turns FROM range(3) t(i)"
    )
    connection.close()
    return tmp_path


def run(data_dir: Path, *arguments: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, ["sql", *arguments, "--data-dir", str(data_dir)])
    return result.exit_code, result.stdout, result.stderr


def test_json_is_one_document_on_one_line(data_dir: Path) -> None:
    code, out, err = run(data_dir, "SELECT * FROM sessions ORDER BY 1 LIMIT 2", "--json")
    assert (code, err) == (0, "")
    assert out.count("\n") == 1
    assert json.loads(out) == [{"session_id": "web-0", "turns": 0}, {"session_id": "web-1", "turns": 1}]


def test_no_rows_are_an_empty_array(data_dir: Path) -> None:
    assert run(data_dir, "SELECT * FROM sessions WHERE turns > 9", "--json") == (0, "[]\n", "")


def test_every_type_has_a_json_form(data_dir: Path) -> None:
    statement = (
        "SELECT 1.5::DECIMAL(9,2) a, sum(2::BIGINT) b, 'x\ny' c, '\\xFF'::BLOB d, TIMESTAMP '2026-01-02 03:04:05' e, "
        "'nan'::DOUBLE f, MAP{1: [NULL, true]} g, {'k': DATE '2026-01-02'} h, NULL i, INTERVAL 1 DAY j"
    )
    code, out, _ = run(data_dir, statement, "--json")
    assert code == 0
    assert json.loads(out) == [
        {
            "a": 1.5,
            "b": 2,
            "c": "x\ny",
            "d": "/w==",
            "e": "2026-01-02T03:04:05",
            "f": "NaN",
            "g": {"1": [None, True]},
            "h": {"k": "2026-01-02"},
            "i": None,
            "j": "1 day",
        }
    ]


def test_columns_with_the_same_name_are_all_kept(data_dir: Path) -> None:
    _, out, _ = run(data_dir, "SELECT 1 x, 2 x, 3 x_1, 4 x", "--json")
    assert json.loads(out) == [{"x": 1, "x_1": 2, "x_1_1": 3, "x_2": 4}]


def test_csv_quotes_what_needs_it(data_dir: Path) -> None:
    code, out, _ = run(data_dir, "SELECT 'a,\"b\"' AS x, NULL AS y, [1, 2] AS z", "--csv")
    assert (code, out) == (0, 'x,y,z\n"a,""b""",,"[1, 2]"\n')


def test_a_table_has_no_colours_and_is_not_cut_to_a_width_when_it_is_not_a_terminal(data_dir: Path) -> None:
    code, out, _ = run(data_dir, "SELECT repeat('x', 150) AS long, repeat('y', 150) AS longer")
    assert code == 0
    assert "\x1b" not in out
    assert "x" * 150 + " " in out
    assert "y" * 150 in out


def test_a_model_cannot_steer_the_terminal(data_dir: Path) -> None:
    _, out, _ = run(data_dir, "SELECT chr(27) || '[2J' || chr(7) || chr(155) AS text")
    assert not set(out) & {"\x1b", "\x07", "\x9b"}


def test_the_limit_bounds_the_rows_and_says_so(data_dir: Path) -> None:
    code, out, err = run(data_dir, "FROM sessions", "--limit", "2", "--json")
    assert (code, len(json.loads(out))) == (0, 2)
    assert "--limit 0" in err
    _, out, err = run(data_dir, "FROM range(500)", "--limit", "0")
    assert " 499" in out
    assert err == ""
    _, out, err = run(data_dir, "FROM range(500)")
    assert " 199" in out
    assert " 200\n" not in out
    assert "--limit 0" in err


@pytest.mark.parametrize(
    "statement", ["DESCRIBE sessions", "SHOW TABLES", "SUMMARIZE sessions", "EXPLAIN FROM sessions"]
)
def test_statements_that_read_are_let_through(data_dir: Path, statement: str) -> None:
    code, out, _ = run(data_dir, statement)
    assert code == 0
    assert out.strip()


@pytest.mark.parametrize(
    "statement",
    [
        "INSERT INTO sessions VALUES ('x', 1)",
        "DROP TABLE sessions",
        "CREATE TABLE t (i INTEGER)",
        "COPY sessions TO '{dir}/stolen.csv'",
        "EXPLAIN ANALYZE COPY sessions TO '{dir}/stolen.csv'",
        "EXPLAIN ANALYZE DELETE FROM sessions",
        "ATTACH '{dir}/stolen.csv' AS other",
        "SELECT * FROM read_text('{dir}/secret')",
        "SELECT * FROM '{dir}/secret.csv'",
        "SELECT * FROM glob('{dir}/*')",
        "SET enable_external_access = true",
        "PRAGMA memory_limit = '1GB'",
        "INSTALL httpfs",
        "LOAD httpfs",
        "SELECT 1; DROP TABLE sessions",
        "SELECT 1; SELECT 2",
        "",
        "/* nothing */",
        "SELEC 1",
        "SELECT * FROM nowhere",
    ],
)
def test_anything_else_is_a_usage_error_and_changes_nothing(data_dir: Path, statement: str) -> None:
    (data_dir / "secret").write_text("hidden words")
    (data_dir / "secret.csv").write_text("a,b\nhidden words,1\n")
    before = (data_dir / "snapshot.duckdb").read_bytes()
    code, out, err = run(data_dir, statement.replace("{dir}", str(data_dir)), "--json")
    assert (code, out) == (2, "")
    assert err.startswith("turnlog: ")
    assert "hidden words" not in err
    assert "Traceback" not in err
    assert (data_dir / "snapshot.duckdb").read_bytes() == before
    assert not (data_dir / "stolen.csv").exists()


def test_without_a_snapshot_it_says_what_to_run(tmp_path: Path) -> None:
    code, out, err = run(tmp_path, "SELECT 1", "--json")
    assert (code, out) == (4, "")
    assert "turnlog up" in err


def test_a_file_that_is_no_database_is_named(tmp_path: Path) -> None:
    (tmp_path / "snapshot.duckdb").write_bytes(b"not a database" * 1000)
    code, _, err = run(tmp_path, "SELECT 1")
    assert code == 1
    assert str(tmp_path / "snapshot.duckdb") in err
    assert "Traceback" not in err


def test_two_formats_at_once_are_a_usage_error(data_dir: Path) -> None:
    assert run(data_dir, "SELECT 1", "--json", "--csv")[0] == 2
