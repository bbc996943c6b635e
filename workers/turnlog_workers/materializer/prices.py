"""What models cost, from a CSV file of the operator's: joined in views, so that rows stay what the log says."""

import csv
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from pathlib import Path

import duckdb

from turnlog_workers.base.settings_check import SettingsError
from turnlog_workers.store.tables import transaction

PRICES_TABLE = (
    "CREATE TABLE IF NOT EXISTS internal.prices (model VARCHAR NOT NULL, input_per_million DOUBLE NOT NULL, "
    "output_per_million DOUBLE NOT NULL, currency VARCHAR NOT NULL, valid_from TIMESTAMPTZ NOT NULL, "
    "valid_to TIMESTAMPTZ NOT NULL)"
)
_NEEDED = ("model", "input_per_million", "output_per_million")
_MAX_ROWS = 10_000
_MAX_PRICE = 10**9
_ALWAYS = datetime.min.replace(tzinfo=UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class Price:
    """What a model costs from a day on (UTC); ``None``: always did. Prices of 1,000,000 tokens."""

    model: str
    valid_from: datetime | None
    input_per_million: float
    output_per_million: float
    currency: str


def read_prices(path: Path | None) -> tuple[Price, ...]:
    """The prices of a file; none without one. Raises ``SettingsError`` with the line that is wrong."""
    if path is None:
        return ()
    prices: dict[tuple[str, datetime | None], Price] = {}
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = csv.DictReader(file, restval="")
            for name in _NEEDED:
                if name not in (rows.fieldnames or ()):
                    raise _wrong(path, f"has no column {name} in its first line")
            for row in rows:
                price = _price(path, rows.line_num, row)
                if (price.model, price.valid_from) in prices:
                    raise _wrong(path, f"line {rows.line_num}: a second price of {price.model} from the same day")
                prices[price.model, price.valid_from] = price
                if len(prices) > _MAX_ROWS:
                    raise _wrong(path, f"has more than {_MAX_ROWS} prices")
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise _wrong(path, f"cannot be read: {error}") from error
    return tuple(prices.values())


def _wrong(path: Path, what: str) -> SettingsError:
    return SettingsError(
        f"TURNLOG_PRICES: {path} {what}. It is a CSV file with the columns model, input_per_million, "
        "output_per_million and, if you like, currency and valid_from (2026-01-31)"
    )


def _price(path: Path, line: int, row: dict[str, str]) -> Price:
    def text(name: str) -> str:
        return row.get(name, "").strip()

    def amount(name: str) -> float:
        try:
            value = Decimal(text(name))
        except InvalidOperation:
            raise _wrong(path, f"line {line}: {name} {text(name)!r} is no number") from None
        if not (value.is_finite() and 0 <= value <= _MAX_PRICE):
            raise _wrong(path, f"line {line}: {name} {text(name)} is no price")
        return float(value)

    if not text("model"):
        raise _wrong(path, f"line {line}: no model")
    day = text("valid_from")
    try:
        valid_from = datetime.strptime(day, "%Y-%m-%d").replace(tzinfo=UTC) if day else None
    except ValueError:
        raise _wrong(path, f"line {line}: valid_from {day!r} is no day such as 2026-01-31") from None
    return Price(
        model=text("model"),
        valid_from=valid_from,
        input_per_million=amount("input_per_million"),
        output_per_million=amount("output_per_million"),
        currency=text("currency") or "USD",
    )


def store_prices(connection: duckdb.DuckDBPyConnection, prices: Iterable[Price]) -> bool:
    """Make the file's prices these; whether they were others. Raises ``duckdb.Error``."""
    by_model: dict[str, list[Price]] = {}
    for price in sorted(prices, key=lambda price: (price.model, price.valid_from or _ALWAYS)):
        by_model.setdefault(price.model, []).append(price)
    wanted = []
    for of_model in by_model.values():
        ends = [_moment(later.valid_from, "-infinity") for later in of_model[1:]] + ["infinity"]
        wanted += [
            (p.model, p.input_per_million, p.output_per_million, p.currency, _moment(p.valid_from, "-infinity"), end)
            for p, end in zip(of_model, ends, strict=True)
        ]
    found = connection.execute(
        "SELECT model, input_per_million, output_per_million, currency, "
        f"{_AS_TEXT.format('valid_from')}, {_AS_TEXT.format('valid_to')} FROM internal.prices p "
        "ORDER BY model, p.valid_from"
    ).fetchall()
    if found == wanted:
        return False
    with transaction(connection):
        connection.execute("DELETE FROM internal.prices")
        for row in wanted:
            connection.execute("INSERT INTO internal.prices VALUES (?, ?, ?, ?, ?::TIMESTAMPTZ, ?::TIMESTAMPTZ)", row)
    return True


#: The same whatever the connection's time zone.
_AS_TEXT = (
    "CASE WHEN isfinite(p.{0}) THEN strftime(make_timestamp(epoch_us(p.{0})), '%Y-%m-%d 00:00:00+00') "
    "ELSE p.{0}::VARCHAR END"
)


def _moment(day: datetime | None, otherwise: str) -> str:
    return day.strftime("%Y-%m-%d 00:00:00+00") if day else otherwise
