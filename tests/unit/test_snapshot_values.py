"""Every value that DuckDB can hold, through ``turnlog sql --json`` and ``--csv`` and back."""

import base64
import csv
import io
import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import pytest

from turnlog.errors import UsageError
from turnlog.snapshot.query import Bounds, SnapshotQuery

#: Type and SQL texts that must come back by ``CAST(text AS type)``, from JSON and from CSV alike.
VALUES: dict[str, tuple[str, ...]] = {
    "BOOLEAN": ("true", "false"),
    "TINYINT": ("-128", "127"),
    "UBIGINT": ("18446744073709551615",),
    "BIGINT": ("-9223372036854775808", "9007199254740993"),
    "HUGEINT": ("-170141183460469231731687303715884105728", "170141183460469231731687303715884105727"),
    "UHUGEINT": ("340282366920938463463374607431768211455",),
    "BIGNUM": ("9" * 5000, "-1", "0"),
    "DECIMAL(9,2)": ("1.50", "-0.01", "0"),
    "DECIMAL(15,3)": ("999999999999.999",),
    "DECIMAL(18,3)": ("999999999999999.999",),
    "DECIMAL(38,9)": ("12345678901234567890123456789.123456789", "-0.000000001"),
    "FLOAT": ("3.4", "16777216", "1e30", "-1e-40", "nan", "inf", "-inf", "-0.0"),
    "DOUBLE": ("0.1", "1e308", "5e-324", "-0.0", "nan", "inf", "-inf", "1e16", "123456789.123456789"),
    "VARCHAR": (
        *(
            "",
            " ",
            "NULL",
            "null",
            "\r",
            "a\rb",
            "a\r\nb\n",
            'say "hi", please',
            "'",
            " x ",
            "\t",
            "ä\u2028漢🙂",
            "\\N",
        ),
        *("\x00", "a\x00b", "\x1b[2J", ",", "#x", "%s %d", "{a}", "0012", "\ufeffx"),
    ),
    "DATE": ("2026-01-02", "infinity", "-infinity", "0044-03-15 (BC)", "290000-01-01"),
    "TIME": ("24:00:00", "12:34:56.789012"),
    "TIMETZ": ("12:00:00+05:30", "12:00:00-15:59:59", "00:00:00.000001+00"),
    "TIME_NS": ("12:00:00.123456789",),
    "TIMESTAMP": (
        "2026-01-02 03:04:05.123456",
        "infinity",
        "-infinity",
        "290000-01-01 00:00:00",
        "0001-01-01 00:00:00",
    ),
    "TIMESTAMP_S": ("2026-01-02 03:04:05",),
    "TIMESTAMP_MS": ("2026-01-02 03:04:05.678",),
    "TIMESTAMP_NS": ("2026-01-02 03:04:05.123456789", "infinity"),
    "TIMESTAMPTZ": ("2026-01-02 03:04:05.5+02", "infinity", "-infinity", "0044-03-15 (BC) 00:00:00+00", "12026-01-01"),
    "INTERVAL": ("1 month 2 days 00:00:00.000003", "-14 months", "400000000 months", "-1 day 25:00:00", "0 days"),
    "UUID": ("00000000-0000-4000-8000-0123456789ab",),
    "BIT": ("101", "0"),
    "ENUM('a', 'b,\"c\"', '')": ("a", 'b,"c"', ""),
}
NESTED = {
    "[1.5::DECIMAL(38,9), NULL]": '["1.500000000", null]',
    "[[], NULL, [DATE 'infinity']]": '[[], null, ["infinity"]]',
    "[1, NULL]::TINYINT[2]": "[1, null]",
    "['nan'::DOUBLE, 'inf'::FLOAT, 1.5]::DOUBLE[3]": '["NaN", "Infinity", 1.5]',
    """{'a': NULL, 'b "c"': {'d': INTERVAL 1 MONTH}}""": '{"a": null, "b \\"c\\"": {"d": "1 month"}}',
    "NULL::STRUCT(a DECIMAL(38,2))": "null",
    "[NULL, {'a': 1.5::DECIMAL(38,1)}]": '[null, {"a": "1.5"}]',
    "row(1, 'x', TIMESTAMP_NS '2026-01-02 03:04:05.123456789')": '[1, "x", "2026-01-02T03:04:05.123456789"]',
    "MAP {'a': 1, '': NULL}": '{"a": 1, "": null}',
    "MAP {1: 'x'}": '{"1": "x"}',
    "MAP {DATE '2026-01-02': 1.5::DECIMAL(20,1)}": '{"2026-01-02": "1.5"}',
    "MAP {[1]: 2}": '[{"key": [1], "value": 2}]',
    "MAP {{'a': 1}: MAP {2: 'x'}}": '[{"key": {"a": 1}, "value": {"2": "x"}}]',
    "NULL::MAP(INTEGER, DATE)": "null",
    "MAP {}": "{}",
    "union_value(a := 1)": '{"a": 1}',
    "[union_value(n := 1.5::DECIMAL(20,1)), NULL]": '[{"n": "1.5"}, null]',
    "'x'::UNION(a INTEGER, b VARCHAR)": '{"b": "x"}',
    "[{'a': [MAP {1: ['nan'::DOUBLE]}]}]": '[{"a": [{"1": ["NaN"]}]}]',
    '\'{"a": [1.10, 1e400, -0], "a": 12345678901234567890123}\'::JSON': (
        '{"a": [1.10, 1e400, -0], "a": 12345678901234567890123}'
    ),
    "['[1,\n\r 2]'::JSON, 'null'::JSON, NULL]": "[[1,   2], null, null]",
}


@pytest.fixture(scope="module")
def snapshot(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("snapshot") / "snapshot.duckdb"
    connection = duckdb.connect(str(path))
    connection.execute("CREATE TABLE sessions (session_id VARCHAR)")
    for number, (kind, texts) in enumerate(VALUES.items()):
        connection.execute(f"CREATE TABLE t{number} (n INTEGER, v {kind})")
        for n, text in enumerate(texts):
            connection.execute(f"INSERT INTO t{number} VALUES (?, CAST(? AS VARCHAR)::{kind})", [n, text])
    connection.close()
    return path


def answer(snapshot: Path, statement: str, form: Any, **more: Any) -> tuple[str, tuple[str, ...]]:
    with SnapshotQuery(snapshot, statement, form=form, **more) as query:
        text = b"".join(query).decode()
    return text, query.notes


def is_same(snapshot: Path, number: int, kind: str, n: int, text: str | None) -> bool:
    """Does the text cast to the stored value, to the last bit of what DuckDB shows of it?"""
    connection = duckdb.connect(str(snapshot), read_only=True)
    try:
        connection.execute("SET TimeZone = 'UTC'")
        row = connection.execute(
            f"SELECT v IS NOT DISTINCT FROM CAST($1 AS {kind}) AND v::VARCHAR IS NOT DISTINCT FROM "
            f"CAST($1 AS {kind})::VARCHAR FROM t{number} WHERE n = $2",
            [text, n],
        ).fetchone()
    finally:
        connection.close()
    assert row is not None
    return bool(row[0])


def exact(document: str) -> Any:
    """JSON with its numbers as they are written."""
    return json.loads(document, parse_int=str, parse_float=str)


#: All of it in one table, a column for each type: a query is a process.
_COLUMNS = ", ".join(f"t{number}.v AS v{number}" for number in range(len(VALUES)))
_JOINS = " ".join(f"LEFT JOIN t{number} USING (n)" for number in range(len(VALUES)))
_LONGEST = max(map(len, VALUES.values()))
ALL = f"SELECT n, {_COLUMNS} FROM range({_LONGEST} + 1) r(n) {_JOINS} ORDER BY n"
CASES = [pytest.param(number, kind, id=kind) for number, kind in enumerate(VALUES)]


@pytest.fixture(scope="module")
def json_text(snapshot: Path) -> str:
    text, notes = answer(snapshot, ALL, "json")
    assert notes == ()
    return text


@pytest.fixture(scope="module")
def csv_text(snapshot: Path) -> str:
    text, notes = answer(snapshot, ALL, "csv", null="<null>")
    assert notes == ()
    return text


@pytest.fixture(scope="module")
def csv_file(snapshot: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("csv") / "answer.csv"
    nul = ", ".join(f"replace(v{n}, chr(0), '<nul>') AS v{n}" for n, kind in enumerate(VALUES) if kind == "VARCHAR")
    path.write_text(answer(snapshot, f"SELECT * REPLACE ({nul}) FROM ({ALL})", "csv")[0], newline="")
    return path


def check(snapshot: Path, number: int, kind: str, given: dict[int, str | None]) -> None:
    assert list(given) == list(range(_LONGEST + 1))
    wrong = [
        text for n, text in given.items() if n < len(VALUES[kind]) and not is_same(snapshot, number, kind, n, text)
    ]
    assert wrong == []
    assert all(text is None for n, text in given.items() if n >= len(VALUES[kind]))


@pytest.mark.parametrize(("number", "kind"), CASES)
def test_json_gives_back(snapshot: Path, json_text: str, number: int, kind: str) -> None:
    json.loads(json_text)  # whatever the reader's numbers are
    values = {int(row["n"]): row[f"v{number}"] for row in exact(json_text)}
    texts = {n: v if v is None or isinstance(v, str) else json.dumps(v) for n, v in values.items()}
    check(snapshot, number, kind, texts)


@pytest.mark.parametrize(("number", "kind"), CASES)
def test_csv_gives_back(snapshot: Path, csv_text: str, number: int, kind: str) -> None:
    rows = list(csv.DictReader(io.StringIO(csv_text, newline="")))
    values = {int(row["n"]): row[f"v{number}"] for row in rows}
    check(snapshot, number, kind, {n: None if v == "<null>" else v for n, v in values.items()})


@pytest.mark.parametrize(("number", "kind"), CASES)
def test_duckdb_reads_the_csv_back(snapshot: Path, csv_file: Path, number: int, kind: str) -> None:
    """With the defaults: NULL is nothing, the empty text two quotes."""
    connection = duckdb.connect()
    rows = connection.execute(
        f"SELECT n::INTEGER, replace(v{number}, '<nul>', chr(0)) FROM read_csv($1, header = true, delim = ',', "
        "quote = '\"', escape = '\"', all_varchar = true, allow_quoted_nulls = false, strict_mode = true)",
        [str(csv_file)],
    ).fetchall()
    connection.close()
    check(snapshot, number, kind, dict(rows))


def test_nested_values(snapshot: Path) -> None:
    statement = f"SELECT {', '.join(f'{value} AS v{number}' for number, value in enumerate(NESTED))}, 1 AS w"
    text, notes = answer(snapshot, statement, "json")
    assert notes == ()
    members = ", ".join(f'"v{number}": {expected}' for number, expected in enumerate(NESTED.values()))
    assert text == f'[{{{members}, "w": 1}}]\n'
    assert json.loads(text)
    (row,) = csv.DictReader(io.StringIO(answer(snapshot, statement, "csv")[0], newline=""))
    for number, (value, expected) in enumerate(NESTED.items()):
        given = row[f"v{number}"]
        assert given == ("" if expected == "null" else expected), value


def test_bytes_are_base64(snapshot: Path) -> None:
    statement = "SELECT '\\x00\\xFF,'::BLOB AS v, [''::BLOB, NULL] AS w"
    (row,) = json.loads(answer(snapshot, statement, "json")[0])
    assert base64.b64decode(row["v"]) == b"\x00\xff,"
    assert row["w"] == ["", None]
    assert answer(snapshot, statement, "csv")[0].startswith("v,w\nAP8s,")


@pytest.mark.parametrize(
    ("value", "note"),
    [
        ("[" * 5000 + "]" * 5000, "nested deeper than 200 levels"),
        ('{"a":' * 201 + "1" + "}" * 201, "nested deeper than 200 levels"),
        ("9" * 5000, "more than 4000 digits"),
        ('{"a": [' + "9" * 5000 + "]}", "more than 4000 digits"),
        ("NaN", "other readers refuse"),
        ('{"a": Infinity}', "other readers refuse"),
    ],
)
def test_json_that_readers_would_fail_on_is_a_text_and_said(snapshot: Path, value: str, note: str) -> None:
    # Concatenated: what is JSON to DuckDB is not checked on its way in.
    statement = f"SELECT n, v::JSON AS v FROM (VALUES (1, '{value}'), (2, '{{}}')) t(n, v) ORDER BY n"
    text, notes = answer(snapshot, statement, "json")
    assert json.loads(text) == [{"n": 1, "v": value}, {"n": 2, "v": {}}]
    (said,) = notes
    assert note in said
    assert "(1 value)" in said
    assert [row["v"] for row in csv.DictReader(io.StringIO(answer(snapshot, statement, "csv")[0]))] == [value, "{}"]


@pytest.mark.parametrize("value", ["[" * 200 + "]" * 200, '"' + "[{" * 500 + '"', '["\\"[", ' + "1, " * 300 + "2]"])
def test_json_that_readers_take_is_itself(snapshot: Path, value: str) -> None:
    text, notes = answer(snapshot, f"SELECT '{value}'::JSON AS v", "json")
    assert notes == ()
    assert json.loads(text) == [{"v": json.loads(value)}]


def test_what_cannot_be_given_back_is_said(snapshot: Path) -> None:
    text, notes = answer(snapshot, "SELECT 1::VARIANT AS v, 'POINT(1 2)'::GEOMETRY AS g, [2::VARIANT] AS w", "json")
    assert json.loads(text) == [{"v": "1", "g": "POINT (1 2)", "w": ["2"]}]
    assert [note.split(" is ")[0] for note in notes] == ["VARIANT", "GEOMETRY"]
    assert "(2 values)" in notes[0]


def test_numbers_are_numbers(snapshot: Path) -> None:
    statement = (
        "SELECT sum(2::BIGINT) AS s, 1.50::DECIMAL(9,2) AS d, avg(3) AS a, 2::HUGEINT ** 2 AS p, 1.5::FLOAT AS f"
    )
    text, _ = answer(snapshot, statement, "json")
    assert json.loads(text) == [{"s": 2, "d": 1.5, "a": 3.0, "p": 4.0, "f": 1.5}]
    assert json.loads(text, parse_float=Decimal)[0]["d"] == Decimal("1.50")


def test_columns_of_one_name_are_all_there(snapshot: Path) -> None:
    statement = 'SELECT 1 AS x, 2 AS x, 3 AS "a,""b""", 4 AS "%s", 5 AS turnlog_0'
    assert json.loads(answer(snapshot, statement, "json")[0]) == [
        {"x": 1, "x_1": 2, 'a,"b"': 3, "%s": 4, "turnlog_0": 5}
    ]
    assert answer(snapshot, statement, "csv")[0] == 'x,x_1,"a,""b""",%s,turnlog_0\n1,2,3,4,5\n'


def test_a_column_may_have_the_name_of_a_lambda(snapshot: Path) -> None:
    statement = "SELECT [turnlog_0] AS v, [[turnlog_0]] AS turnlog_0 FROM (SELECT DATE '2026-01-02' AS turnlog_0)"
    assert json.loads(answer(snapshot, statement, "json")[0]) == [{"v": ["2026-01-02"], "turnlog_0": [["2026-01-02"]]}]


def test_no_rows_and_null_alone(snapshot: Path) -> None:
    assert answer(snapshot, "SELECT 1 AS a, 2 AS b WHERE false", "json")[0] == "[]\n"
    assert answer(snapshot, "SELECT 1 AS a, 2 AS b WHERE false", "csv")[0] == "a,b\n"
    assert answer(snapshot, "SELECT NULL AS a UNION ALL SELECT 1", "csv", null="NULL")[0] == "a\nNULL\n1\n"
    assert answer(snapshot, "SELECT 'NULL' AS a", "csv", null="NULL")[0] == 'a\n"NULL"\n'
    assert answer(snapshot, "SELECT 0 AS a, NULL AS b", "csv", null="0")[0] == 'a,b\n"0",0\n'


@pytest.mark.parametrize("statement", ["SELECT 1; SELECT 2", "DROP TABLE sessions", "SELEC", "SELECT 'x'::INTEGER", ""])
def test_errors_have_a_sentence_and_no_rows(snapshot: Path, statement: str) -> None:
    with pytest.raises(UsageError), SnapshotQuery(snapshot, statement) as query:
        assert list(query) == []


def test_order_and_limit_stay(snapshot: Path) -> None:
    statement = "SELECT range AS n FROM range(5000) ORDER BY n DESC -- a comment\n ; "
    with SnapshotQuery(snapshot, statement, bounds=Bounds(max_rows=3000, batch_rows=7)) as query:
        rows = json.loads(b"".join(query))
    assert [row["n"] for row in rows] == list(range(4999, 1999, -1))
    assert query.more
    with SnapshotQuery(snapshot, statement, bounds=Bounds(max_rows=5000)) as query:
        assert len(json.loads(b"".join(query))) == 5000
    assert not query.more
