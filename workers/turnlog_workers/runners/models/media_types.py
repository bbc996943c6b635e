"""Which files the models of a provider are shown. What one of its models takes is the provider's to say."""

_IMAGES = ("image/png", "image/jpeg", "image/gif", "image/webp")
_TEXT = "text/*"  #: put into the message as text
#: By the provider's name in pydantic-ai. Sources: the pages on images and files of OpenAI, Anthropic and Google (which
#: takes no GIF), and what pydantic-ai's own classes send on.
_BY_PROVIDER = {
    "anthropic": (*_IMAGES, "application/pdf", _TEXT),
    "bedrock": (*_IMAGES, "application/pdf", _TEXT),
    "openai": (*_IMAGES, "application/pdf", _TEXT),
    "openai-chat": (*_IMAGES, "application/pdf", _TEXT),
    "openai-responses": (*_IMAGES, "application/pdf", _TEXT),
    "azure": (*_IMAGES, _TEXT),
    "openrouter": (*_IMAGES, _TEXT),
    "groq": (*_IMAGES, _TEXT),
    "mistral": (*_IMAGES, _TEXT),
    "google": ("image/png", "image/jpeg", "image/webp", "application/pdf", _TEXT),
    "google-gla": ("image/png", "image/jpeg", "image/webp", "application/pdf", _TEXT),
    "google-vertex": ("image/png", "image/jpeg", "image/webp", "application/pdf", _TEXT),
}


def media_types_of(provider: str) -> tuple[str, ...]:
    """Shell-style patterns; none for a provider of which we do not know."""
    return _BY_PROVIDER.get(provider, ())
