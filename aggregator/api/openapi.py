"""OpenAPI 3.1 of the endpoints, made from the same table as the router."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from aggregator.api.endpoint import Endpoint, Param

_ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["code", "message", "hint"],
            "properties": {name: {"type": "string"} for name in ("code", "message", "hint")},
        }
    },
}


def document(endpoints: Sequence[Endpoint], *, version: str) -> dict[str, Any]:
    """The OpenAPI document of `endpoints`."""
    paths: dict[str, dict[str, Any]] = {}
    for endpoint in endpoints:
        paths.setdefault(_path(endpoint.path), {})[endpoint.method.lower()] = _operation(endpoint)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "fleetflame",
            "version": version,
            "summary": "Profiles of a fleet's CPU time.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "paths": paths,
        "components": {
            "schemas": {"Error": _ERROR},
            "responses": {
                "Error": {
                    "description": "What went wrong, and what to do about it.",
                    "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}},
                }
            },
        },
    }


def _path(path: str) -> str:
    return re.sub(r"{(\w+):\w+}", r"{\1}", path)


def _operation(endpoint: Endpoint) -> dict[str, Any]:
    in_path = re.findall(r"{(\w+)", endpoint.path)
    operation: dict[str, Any] = {
        "operationId": _identifier(endpoint),
        "summary": endpoint.summary,
        "parameters": [
            *({"name": name, "in": "path", "required": True, "schema": {"type": "string"}} for name in in_path),
            *(_parameter(param) for param in endpoint.params),
        ],
        "responses": {
            "200": {"description": endpoint.summary, "content": _content(endpoint.answers)},
            "default": {"$ref": "#/components/responses/Error"},
        },
    }
    if endpoint.body:
        operation["requestBody"] = {
            "description": endpoint.body,
            "required": True,
            "content": {"application/octet-stream": {}},
        }
    return operation


def _content(answers: Mapping[str, str]) -> dict[str, Any]:
    return {kind.partition(";")[0]: {"schema": {"description": told}} for kind, told in answers.items()}


def _parameter(param: Param) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "string"}
    if param.choices:
        schema["enum"] = list(param.choices)
    if param.default:
        schema["default"] = param.default
    if param.repeated:
        schema = {"type": "array", "items": schema}
    told = {"name": param.name, "in": "query", "description": param.help, "schema": schema}
    return told | ({"required": True} if param.required else {}) | ({"example": param.example} if param.example else {})


def _identifier(endpoint: Endpoint) -> str:
    words = re.findall(r"[a-z]+", endpoint.path.removeprefix("/api/v1"))
    return "_".join((endpoint.method.lower(), *words)) if words else "get_page"
