"""The command line: ``turnlog``."""


def main() -> None:
    """Run the command that ``sys.argv`` names, and exit with its code."""
    from turnlog.cli.app import app

    app(prog_name="turnlog")
