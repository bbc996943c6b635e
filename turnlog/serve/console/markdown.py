"""Markdown of models and users to HTML that can do nothing: parsed without raw HTML, then cleaned by an allow list."""

from functools import cache

import nh3
from markdown_it import MarkdownIt

MAX_CHARS = 100_000  #: beyond that the text is shown as it is: laying out takes time
MAX_NESTING = 20
_TAGS = {
    *("p", "br", "hr", "em", "strong", "s", "code", "pre", "blockquote", "ul", "ol", "li", "a"),
    *("h1", "h2", "h3", "h4", "h5", "h6", "table", "thead", "tbody", "tr", "th", "td"),
}
_SCHEMES = {"http", "https", "mailto"}


@cache
def _parser() -> MarkdownIt:
    # No raw HTML, no images: one would tell a stranger's server who reads what.
    made = MarkdownIt("commonmark", {"html": False, "maxNesting": MAX_NESTING})
    return made.enable(["table", "strikethrough"]).disable("image")


def to_html(text: str) -> str:
    """Safe HTML of a Markdown text."""
    if len(text) > MAX_CHARS:
        return f"<pre>{nh3.clean_text(text)}</pre>"
    return nh3.clean(
        _parser().render(text),
        tags=_TAGS,
        attributes={"a": {"href"}, "ol": {"start"}},
        url_schemes=_SCHEMES,
        link_rel="noopener noreferrer nofollow",
    )
