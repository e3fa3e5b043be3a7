"""The forms in which a server, a library or a file may repeat a text."""

from __future__ import annotations

import base64
import html
import json
import re
import shlex
from collections.abc import Callable
from urllib.parse import quote, quote_plus, urlencode

__all__ = ["ENCODERS"]

ENCODERS: dict[str, Callable[[str], str]] = {
    "as it is": str,
    "upper case": str.upper,
    "lower case": str.lower,
    "percent-encoded": lambda text: quote(text, safe=""),
    "percent-encoded in lower case": lambda text: quote(text, safe="").lower(),
    "percent-encoded, slashes kept": quote,
    "percent-encoded twice": lambda text: quote(quote(text, safe=""), safe=""),
    "form": quote_plus,
    "query": lambda text: urlencode({"a": text}),
    "JSON": json.dumps,
    "JSON in UTF-8": lambda text: json.dumps(text, ensure_ascii=False),
    "JSON in JSON": lambda text: json.dumps(json.dumps(text)),
    "JSON of PHP": lambda text: json.dumps(text).replace("/", "\\/"),
    "JSON for HTML": lambda text: json.dumps(text).replace("&", "\\u0026").replace("<", "\\u003C"),
    "HTML": html.escape,
    "HTML twice": lambda text: html.escape(html.escape(text)),
    "HTML by number": lambda text: re.sub(r"\W", lambda each: f"&#{ord(each[0])};", text),
    "HTML by hexadecimal number": lambda text: re.sub(r"\W", lambda each: f"&#X{ord(each[0]):04X};", text),
    "repr": repr,
    "repr of bytes": lambda text: repr(text.encode()),
    "ascii": ascii,
    "shell": shlex.quote,
    "Base64": lambda text: base64.b64encode(text.encode()).decode(),
    "Base64 without padding": lambda text: base64.b64encode(text.encode()).decode().rstrip("="),
    "Base64 for URLs": lambda text: base64.urlsafe_b64encode(text.encode()).decode(),
    "Base64 in a query": lambda text: quote(base64.b64encode(text.encode()).decode(), safe=""),
    "Base64 of a pair": lambda text: base64.b64encode(f"user:{text}".encode()).decode(),
    "Base64 of a header": lambda text: base64.b64encode(f"X-Key: {text}\r\nHost: x".encode()).decode(),
}
