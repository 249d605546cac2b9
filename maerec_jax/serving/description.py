"""The description of the service (OpenAPI) as a page that needs no other host, and no scripts."""

import json
import re
from collections.abc import Iterator
from html import escape
from typing import Any

from maerec_jax.evaluation.style import STYLE

POLICY = "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'"
"""What the page may do (Content-Security-Policy): it has no scripts."""

_MORE = """
h2 code { font-size: 1.1rem; }
pre, td code { overflow-wrap: anywhere; white-space: pre-wrap; }
pre { font-size: 0.85rem; }
td, th { white-space: normal; text-align: left; vertical-align: top; }
"""


def description_page(schema: dict[str, Any]) -> str:
    """A page that shows an OpenAPI description: paths with a form to try them, responses, and models with examples."""
    about, models = schema["info"], schema["components"]["schemas"]
    parts = [
        f"<h1>{escape(about['title'])} {escape(about['version'])}</h1>",
        f"<p>{escape(about.get('summary', ''))} {escape(about.get('description', ''))}</p>",
        '<p class="quiet">For programs: <a href="openapi.json">openapi.json</a></p>',
    ]
    for path, methods in schema["paths"].items():
        for method, operation in methods.items():
            parts += _operation(path, method, operation, models)
    parts.append("<h2>Models</h2>")
    for name, model in models.items():
        parts += _model(name, model)
    return (
        f"<!DOCTYPE html><html lang='en'><head><meta charset='utf-8'><title>{escape(about['title'])}</title>"
        "<meta name='viewport' content='width=device-width, initial-scale=1'>"
        f"<style>{STYLE}{_MORE}</style></head><body>\n" + "\n".join(parts) + "\n</body></html>\n"
    )


def _operation(path: str, method: str, operation: dict[str, Any], models: dict[str, Any]) -> Iterator[str]:
    yield f"<h2><code>{method.upper()} {escape(path)}</code> {escape(operation['summary'])}</h2>"
    text = re.sub("`(.*?)`", r"<code>\1</code>", escape(operation.get("description", "")))
    yield f"<p>{text}</p>"
    if "requestBody" in operation:
        kinds = ", ".join(f"<code>{escape(kind)}</code>" for kind in operation["requestBody"]["content"])
        yield f"<p>Body: {kinds}</p>"
        yield (
            f"<form action='{escape(path[1:])}' method='post' enctype='multipart/form-data'>"
            "<input type='file' name='images' accept='image/*' multiple required aria-label='Images'> "
            "<button>Try it</button></form>"
        )
    yield "<div class='wide'><table><thead><tr><th>Status</th><th>When</th><th>Body</th></tr></thead><tbody>"
    answers = {}
    for status, response in sorted(operation["responses"].items()):
        body = response.get("content", {}).get("application/json", {}).get("schema", {})
        yield f"<tr><th>{status}</th><td>{escape(response['description'])}</td><td>{_kind(body)}</td></tr>"
        if status == "200" and "$ref" in body:
            answers = _example(body, models)
    yield "</tbody></table></div>"
    if answers:
        shown = escape(json.dumps(answers, indent=1, ensure_ascii=False))
        yield f"<details><summary>Example of an answer</summary><pre>{shown}</pre></details>"


def _model(name: str, model: dict[str, Any]) -> Iterator[str]:
    yield f"<h3 id='{escape(name)}'>{escape(name)}</h3><p>{escape(model.get('description', ''))}</p>"
    yield "<div class='wide'><table><thead><tr><th>Field</th><th>Type</th><th>Meaning</th><th>Example</th></tr></thead>"
    yield "<tbody>"
    for field, about in model["properties"].items():
        examples = about.get("examples", [])
        example = f"<code>{escape(json.dumps(examples[0], ensure_ascii=False))}</code>" if examples else ""
        yield f"<tr><th>{escape(field)}</th><td>{_kind(about)}</td>"
        yield f"<td>{escape(about.get('description', ''))}</td><td>{example}</td></tr>"
    yield "</tbody></table></div>"


def _kind(schema: dict[str, Any]) -> str:
    """The type of a value, with links to models."""
    if "$ref" in schema:
        name = escape(schema["$ref"].rpartition("/")[2])
        return f"<a href='#{name}'>{name}</a>"
    if "anyOf" in schema:
        return " or ".join(map(_kind, schema["anyOf"]))
    if "enum" in schema:
        return ", ".join(escape(str(value)) for value in schema["enum"])
    if schema.get("type") == "array" and "items" in schema:
        return f"list of {_kind(schema['items'])}"
    return escape(schema.get("type", ""))


def _example(schema: dict[str, Any], models: dict[str, Any]) -> Any:
    """A value that fits a schema, from the examples of its fields."""
    if "examples" in schema:
        return schema["examples"][0]
    if "default" in schema:
        return schema["default"]
    if "$ref" in schema:
        fields = models[schema["$ref"].rpartition("/")[2]]["properties"]
        return {name: _example(field, models) for name, field in fields.items()}
    if "anyOf" in schema:
        return None
    if schema.get("type") == "array":
        return [_example(schema["items"], models)]
    return schema.get("enum", [""])[0]
