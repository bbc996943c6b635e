"""Turnlog's own REST: the client's verbs over HTTP, each an operation from which the OpenAPI page is generated."""
