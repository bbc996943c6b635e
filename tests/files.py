"""Files that messages refer to, and a policy that allows them."""

from turnlog_schemas.parts import ContentPart
from turnlog_streams.files import FilePolicy
from turnlog_streams.policy import Policy

FILE = ContentPart(kind="file_ref", uri="https://files.example/in/a%20photo.png", media_type="image/png", bytes=1200)
ALLOWED = FilePolicy(
    prefixes=("https://files.example/in/", "file:///srv/in/"),
    media_types=("image/*", "application/pdf"),
    max_bytes=5000,
    max_turn_bytes=8000,
)
TAKES_FILES = Policy(files=ALLOWED, media_types_of=lambda model: ("image/png", "image/jpeg"))
