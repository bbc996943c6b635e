"""Which sessions a page shows, as its address says it: a query string to a filter and back. Pure."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from urllib.parse import urlencode

from turnlog.snapshot.listing import STATES, SessionFilter, State

MAX_TEXT_CHARS = 200
MAX_METADATA = 8
PAGE = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class Filters:
    """What somebody asked for; ``problems`` are sentences on what was not understood and is left out."""

    channel: str = ""
    state: State | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)
    text: str = ""
    after: str = ""  #: key of the page before
    problems: tuple[str, ...] = ()

    @property
    def any(self) -> bool:
        """Does it leave anything out, archived sessions apart?"""
        return bool(self.channel or self.state or self.metadata or self.text)

    def which(self, id_prefix: str = "") -> SessionFilter:
        """The same, for the snapshot."""
        return SessionFilter(
            channel=self.channel or None,
            state=self.state,
            metadata=self.metadata or None,
            text=self.text or None,
            id_prefix=id_prefix,
        )

    def query(self, *, after: str = "") -> str:
        """The query string of the same filters; of the first page, or of the one after a key."""
        pairs: list[tuple[str, str]] = []
        if self.channel:
            pairs.append(("channel", self.channel))
        if self.state:
            pairs.append(("state", self.state))
        pairs += [("metadata", f"{name}={value}") for name, value in self.metadata.items()]
        if self.text:
            pairs.append(("text", self.text))
        if after:
            pairs.append(("after", after))
        return urlencode(pairs)

    @property
    def metadata_text(self) -> str:
        """As the form's one field has it."""
        return ", ".join(f"{name}={value}" for name, value in self.metadata.items())


def read_filters(pairs: Sequence[tuple[str, str]]) -> Filters:
    """The filters of a query string's pairs. Names that it does not know are passed over."""
    values = {name: value.strip() for name, value in pairs}
    problems: list[str] = []
    state = next((known for known in STATES if known == values.get("state")), None)
    if values.get("state") and state is None:
        problems.append(f"There is no state {values['state']!r}: {', '.join(STATES)} are.")
    metadata: dict[str, str] = {}
    for part in _parts(value for name, value in pairs if name == "metadata"):
        name, equals, value = part.partition("=")
        if not equals or not name.strip():
            problems.append(f"Metadata are looked for as name=value; {part!r} is not.")
        elif len(metadata) < MAX_METADATA:
            metadata[name.strip()] = value.strip()
        else:
            problems.append(f"At most {MAX_METADATA} metadata are looked for at a time.")
            break
    return Filters(
        channel=values.get("channel", ""),
        state=state,
        metadata=metadata,
        text=values.get("text", "")[:MAX_TEXT_CHARS],
        after=values.get("after", ""),
        problems=tuple(problems),
    )


def _parts(values: Iterable[str]) -> list[str]:
    return [part.strip() for value in values for part in value.split(",") if part.strip()]
