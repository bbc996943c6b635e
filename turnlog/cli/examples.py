"""What each command's help ends with: lines that can be typed as they are. A test parses every one of them."""

import inspect

import typer

EXAMPLES: dict[str, tuple[str, ...]] = {
    "demo": ("turnlog demo",),
    "up": ("turnlog up --workers 2", "turnlog up --port 19092"),
    "doctor": ("turnlog doctor", "turnlog doctor --json"),
    "chat": ("turnlog chat", "turnlog chat web-1 --model echo:"),
    "send": ('turnlog send web-1 "What is a log?" --wait', 'turnlog send web-1 "Hi" --request-id order-17'),
    "tail": ("turnlog tail --session web-1", "turnlog tail events -o -5 --type TurnFailed --json"),
    "sql": ('turnlog sql "SELECT count(*) FROM sessions"',),
    "verify": ("turnlog verify",),
    "diff": ("turnlog diff yesterday.duckdb today.duckdb",),
    "worker": ("turnlog worker --data-dir turnlog-data",),
    "materialize": ("turnlog materialize --data-dir turnlog-data",),
    "serve": ("turnlog serve --port 8080",),
    "sessions create": ('turnlog sessions create web --title "Order 17" --meta tenant=7',),
    "sessions get": ("turnlog sessions get web-1",),
    "sessions update": (
        'turnlog sessions update web-1 --title "Order 17, refunded"',
        "turnlog sessions update web-1 --metadata state=refunded --remove-metadata draft",
    ),
    "sessions resolve": ("turnlog sessions resolve web",),
    "sessions rotate": ("turnlog sessions rotate web",),
    "sessions archive": ("turnlog sessions archive web-1",),
    "sessions active": ("turnlog sessions active web",),
    "sessions cancel": ("turnlog sessions cancel web-1",),
    "sessions hide": ("turnlog sessions hide web-1 t-0-17",),
    "sessions erase": ("turnlog sessions erase web-1", "turnlog sessions erase --meta user_id=ada --yes"),
    "sessions reset": ("turnlog sessions reset web-1",),
    "sessions history": ("turnlog sessions history web-1",),
    "sessions compact": ('turnlog sessions compact web-1 --instructions "Keep every amount."',),
    "sessions list": ("turnlog sessions list --json",),
    "sessions show": ("turnlog sessions show web-1",),
    "models install": ("turnlog models install smollm2",),
    "settings set": ("turnlog settings set default-model echo:",),
    "settings unset": ("turnlog settings unset default-model",),
    "settings list": ("turnlog settings list",),
    "topics init": ("turnlog topics init",),
    "config": ("turnlog config worker --changed", "turnlog config --json"),
    "lag": ("turnlog lag", "turnlog lag --max 100 --max-age-s 60 --json"),
    "dead-letters list": (
        "turnlog dead-letters list --code undecodable --since 2026-05-01",
        "turnlog dead-letters list --all --json",
    ),
    "dead-letters show": ("turnlog dead-letters show 0@17",),
    "dead-letters redrive": (
        "turnlog dead-letters redrive 0@17 3@4",
        "turnlog dead-letters redrive --code unknown_fingerprint --limit 100",
    ),
    "dead-letters discard": ("turnlog dead-letters discard 0@17", "turnlog dead-letters discard --before 2026-05-01"),
    "acls print": (
        "turnlog acls print --prefix chat",
        "turnlog acls print --role worker --principal worker=User:turnlog-7 --command-config admin.properties",
    ),
}


def add_examples(app: typer.Typer, path: str = "") -> None:
    """Give the commands their examples, those of groups too. A command whose own help has some keeps those."""
    for command in app.registered_commands:
        name = command.name or getattr(command.callback, "__name__", "")
        examples = EXAMPLES.get(f"{path}{name}")
        if examples is not None:
            command.epilog = "Examples: " + " · ".join(f"`{each}`" for each in examples)
        command.help = _unwrapped(command.help or inspect.getdoc(command.callback) or "")
    for group in app.registered_groups:
        if group.typer_instance is not None:
            add_examples(group.typer_instance, f"{path}{group.name} ")


def _unwrapped(text: str) -> str:
    """Each paragraph on one line: a terminal is as wide as it is, and typer keeps the line ends of the source."""
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in inspect.cleandoc(text).split("\n\n"))
