"""``python -m turnlog_schemas.generate``: write the ``.avsc`` files anew from the dataclasses (then read the diff)."""

import json
from pathlib import Path

from turnlog_schemas.registry import FAMILIES, derive


def main() -> None:
    """Write every schema file; existing ones are replaced."""
    folder = Path(__file__).parent / "avro"
    folder.mkdir(exist_ok=True)
    for family in FAMILIES.values():
        for payload in family.payloads:
            path = folder / f"{family.name}.{payload.__name__}.avsc"
            path.write_text(json.dumps(derive(family, payload), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
