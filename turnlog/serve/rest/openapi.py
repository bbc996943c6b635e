"""The OpenAPI document of the REST interface, generated from its operations; and a page of it that needs no network."""

import html
import re
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

from starlette.responses import Response

from turnlog.serve.endpoints import Call, Endpoint
from turnlog.serve.http_errors import json_response
from turnlog.serve.rest import channels, session_stream, sessions
from turnlog.serve.rest.operations import Operation, adapter

OPERATIONS: tuple[Operation, ...] = (*sessions.OPERATIONS, *session_stream.OPERATIONS, *channels.OPERATIONS)
_REF = "#/components/schemas/{model}"
_ALWAYS = {400: "The request is not as it must be.", 401: "No such key.", 403: "Not with this key.", 429: "Too often."}
_TEXT = {"type": "string"}
_PARAMETER = re.compile(r"{([a-z_]+)(:path)?}")


def document(operations: Sequence[Operation] = OPERATIONS) -> dict[str, Any]:
    """OpenAPI 3.1."""
    schemas: dict[str, Any] = {"Error": _ERROR}
    paths: dict[str, dict[str, Any]] = {}
    for operation in operations:
        path = _PARAMETER.sub(r"{\1}", operation.path)
        paths.setdefault(path, {})[operation.method.lower()] = _operation(operation, schemas)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Turnlog",
            "version": version("turnlog"),
            "description": "Sessions on Kafka. OpenAI's protocols are under the same address and not described here.",
        },
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{"key": []}],
    }


def _operation(operation: Operation, schemas: dict[str, Any]) -> dict[str, Any]:
    described: dict[str, Any] = {
        "operationId": operation.name,
        "summary": operation.summary,
        "description": f"Scope: {' or '.join(operation.scopes)}.",
        "parameters": [
            *(
                {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
                for name in _path(operation)
            ),
            *_query(operation),
        ],
        "responses": {str(operation.status): _given(operation, schemas), **_errors(operation)},
    }
    if operation.body is not None:
        described["requestBody"] = {"content": {"application/json": {"schema": _schema(operation.body, schemas)}}}
    return described


def _path(operation: Operation) -> list[str]:
    return [found[0] for found in _PARAMETER.findall(operation.path)]


def _query(operation: Operation) -> list[dict[str, Any]]:
    properties = operation.query.model_json_schema().get("properties", {})
    found = []
    for name, schema in properties.items():
        kept = {key: value for key, value in schema.items() if key not in ("title", "description")}
        parameter = {"name": name, "in": "query", "required": False, "schema": kept}
        if "description" in schema:
            parameter["description"] = schema["description"]
        found.append(parameter)
    return found


def _given(operation: Operation, schemas: dict[str, Any]) -> dict[str, Any]:
    if operation.gives is None:
        return {"description": "Events.", "content": {"text/event-stream": {"schema": {"type": "string"}}}}
    return {"description": "Done.", "content": {"application/json": {"schema": _schema(operation.gives, schemas)}}}


def _errors(operation: Operation) -> dict[str, Any]:
    content = {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}
    refused = {**_ALWAYS, **operation.refuses}
    return {str(status): {"description": text, "content": content} for status, text in sorted(refused.items())}


def _schema(kind: Any, schemas: dict[str, Any]) -> dict[str, Any]:
    """A reference to the type's schema; it and all that it refers to are among the components then."""
    described = adapter(kind).json_schema(ref_template=_REF, mode="validation")
    schemas.update(described.pop("$defs", {}))
    title = described.get("title")
    if title is None:
        return described
    schemas[title] = described
    return {"$ref": _REF.format(model=title)}


_ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {name: {"type": "string"} for name in ("message", "type", "param", "code")},
        }
    },
}


# ---- shown


async def _document(call: Call) -> Response:
    return json_response(document())


async def _page(call: Call) -> Response:
    headers = {"content-security-policy": "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'"}
    return Response(page(document()), media_type="text/html", headers=headers)


def page(found: dict[str, Any]) -> str:
    """The document for people: a list of operations, each with what it takes and refuses."""
    rows = []
    for path, methods in found["paths"].items():
        for method, operation in methods.items():
            names = ", ".join(parameter["name"] for parameter in operation["parameters"])
            body = operation.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema", {})
            fields = _fields(body, found["components"]["schemas"])
            answers = "; ".join(f"{status}: {what['description']}" for status, what in operation["responses"].items())
            cells = (method.upper(), path, operation["summary"], operation["description"], names, fields, answers)
            rows.append("".join(f"<td>{html.escape(cell)}</td>" for cell in cells))
    heads = ("", "path", "what", "who", "parameters", "body", "answers")
    head = "".join(f"<th>{name}</th>" for name in heads)
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8"><title>Turnlog: REST</title>'
        "<style>:root{color-scheme:light dark}body{font:14px/1.5 system-ui;margin:2rem}td,th{text-align:left;"
        "vertical-align:top;padding:.3rem .6rem;border-bottom:1px solid #8884}td:nth-child(-n+2){font-family:monospace}"
        '</style><h1>Turnlog: REST</h1><p><a href="/openapi.json">openapi.json</a></p>'
        f"<table><tr>{head}</tr>{''.join(f'<tr>{row}</tr>' for row in rows)}</table></html>"
    )


def _fields(schema: dict[str, Any], schemas: dict[str, Any]) -> str:
    name = schema.get("$ref", "").rpartition("/")[2]
    described = schemas.get(name, {})
    required = described.get("required", [])
    return ", ".join(f"{field}*" if field in required else field for field in described.get("properties", {}))


ENDPOINTS: tuple[Endpoint, ...] = (
    *(operation.endpoint() for operation in OPERATIONS),
    Endpoint(path="/openapi.json", handler=_document),
    Endpoint(path="/docs", handler=_page),
)
