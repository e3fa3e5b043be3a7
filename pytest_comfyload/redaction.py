"""Registry of the secrets that this process was configured with, and their removal from text in every form.

Configuration registers each secret once: `hide`, `hide_header`, `hide_url`, `hide_named`. Output goes through
`redacted` (text) or `redacted_values` (records); both replace a secret by `…`, regardless of its length.

A secret is found verbatim, in upper or lower case, percent-encoded (`+` for a space), with escapes of JSON, HTML,
Python or a shell, also nested, and in Base64 with either alphabet, alone or within other content. A secret of fewer
than `SHORTEST` characters would match in ordinary text: it is hidden only together with what it is sent with, such as
`user:password` or a whole header.
"""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import functools
import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeVar
from urllib.parse import unquote, unquote_plus

__all__ = [
    "HIDDEN",
    "SHORTEST",
    "any_secrets",
    "hide",
    "hide_environment",
    "hide_flags",
    "hide_header",
    "hide_named",
    "hide_url",
    "holds_secret",
    "is_secret_name",
    "only_now",
    "redacted",
    "redacted_values",
]

T = TypeVar("T")

HIDDEN = "…"
# Characters. Shorter values are taken for flags.
SHORTEST = 6
# Characters of an encoded secret.
_MOST_OF_SECRET = 16_384

# Headers whose values need not be hidden, and occur in ordinary messages.
_PUBLIC_HEADERS = re.compile(
    r"accept(-.*)?|user-agent|content-.*|host|origin|referer|connection|cache-control|pragma|upgrade(-.*)?|te|via"
    r"|forwarded|x-forwarded-.*|x-real-ip|x-request-id|traceparent|tracestate|sec-(fetch|ch)-.*",
    re.IGNORECASE,
)
_SCHEME = re.compile(r"(basic|bearer|digest|token|apikey|negotiate|ntlm|hawk|aws4-hmac-sha256)\s+(?=\S)", re.IGNORECASE)
_SECRET_NAME = re.compile(
    r"(?:api|auth|access|secret|private|_)[-_.]?key(?![a-z])|apikey|secret|passw(?:or)?d|credential"
    r"|auth(?:orization)?(?![a-z])|(?:^|[-_.])token(?![a-z])|(?:access|auth|bearer|refresh|session)[-_.]?token(?![a-z])",
    re.IGNORECASE,
)
_secrets: frozenset[str] = frozenset()
_registering = threading.Lock()


def hide(*secrets: str) -> None:
    """Register secrets, verbatim and percent-decoded."""
    global _secrets
    spelled = (form.strip() for each in secrets for form in (each, unquote(each), unquote_plus(each)))
    new = {each for each in spelled if len(each) >= SHORTEST}
    with _registering:
        _secrets |= new


@contextlib.contextmanager
def only_now() -> Iterator[None]:
    """Forget the secrets that are registered in the `with` block when it ends."""
    global _secrets
    before = _secrets
    try:
        yield
    finally:
        _secrets = before


def any_secrets() -> bool:
    """Return whether any secret is registered."""
    return bool(_secrets)


def is_secret_name(name: str) -> bool:
    """Return whether an input, flag or setting of this name contains a secret."""
    return _SECRET_NAME.search(name) is not None


def hide_header(name: str, value: str) -> None:
    """Register the value of a request header, as a whole and each part that a server may repeat alone."""
    if _PUBLIC_HEADERS.fullmatch(name):
        return
    if name.lower() == "cookie":
        hide(*(pair.partition("=")[2].strip(' "') or pair for pair in value.split(";")))
        return
    credentials = _SCHEME.sub("", value, count=1)
    hide(value if len(credentials) < SHORTEST else credentials)
    for word in credentials.split():
        hide(word.strip(",;"), word.partition("=")[2].strip('",;'))
        if ":" in (pair := _decoded(word)):
            _hide_pair(pair)


def hide_url(url: str) -> None:
    """Register the user info and the query of a URL."""
    address, _, query = url.partition("?")
    user, at, _ = re.split("[/#]", address.partition("://")[2])[0].rpartition("@")
    if at:
        _hide_pair(user)
    for pair in query.partition("#")[0].split("&"):
        hide(pair.partition("=")[2] or pair)


def _hide_pair(pair: str) -> None:
    """Register `user:password` as a whole, and the password; a user without a password is a token."""
    user, _, password = pair.partition(":")
    hide(pair, password or user)
    decoded = ":".join(map(unquote, (user, password)))
    if decoded != pair:
        hide(decoded)


def hide_named(values: Mapping[str, Any]) -> None:
    """Register the strings among inputs or settings whose names indicate a secret."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            hide_named(value)
        elif is_secret_name(str(name)):
            texts = value if isinstance(value, list | tuple) else [value]
            hide(*(each for each in texts if isinstance(each, str)))


def hide_flags(flags: Sequence[str]) -> None:
    """Register the values of secret flags in a command line: `--api-key=VALUE`, `--api-key VALUE`."""
    for flag, following in zip(flags, (*flags[1:], "-"), strict=False):
        name, equals, value = flag.partition("=")
        if name.startswith("-") and (equals or not following.startswith("-")):
            hide_named({name: value if equals else following})


def hide_environment(environ: Mapping[str, str]) -> None:
    """Register the secrets in this package's environment variables, whether or not they are used."""
    for variable in ("COMFYUI_HEADERS", "COMFYLOAD_WEBHOOK_HEADERS"):
        for line in environ.get(variable, "").splitlines():
            name, _, value = line.partition(":")
            hide_header(name.strip(), value.strip())
    for url in environ.get("COMFYUI_URL", "").replace(",", " ").split():
        hide_url(url)
    hide_named({name: value for name, value in environ.items() if name.startswith("COMFYUI_")})


# --- removal ---


def redacted(text: str, most: int | None = None) -> str:
    """Return the text, or its first `most` characters, with `…` for each secret, also for one that is cut off."""
    begun = text[:most]
    if not _secrets:
        return begun
    content = (text if most is None else text[: most + _MOST_OF_SECRET]).encode("utf-8", "surrogatepass")
    length = len(content) if most is None else len(begun.encode("utf-8", "surrogatepass"))
    spans = [span for span in _forms_of(_secrets).found_in(content) if span[0] < length]
    if not spans:
        return begun
    ends = [end for _, end in spans]
    kept = zip([0, *ends], [*(begin for begin, _ in spans), max(length, ends[-1])], strict=True)
    return HIDDEN.join(content[begin:end].decode("utf-8", "surrogatepass") for begin, end in kept)


def holds_secret(content: bytes) -> bool:
    """Return whether UTF-8 text contains a secret, in JSON or any other encoding."""
    return bool(_secrets) and bool(_forms_of(_secrets).found_in(content))


def redacted_values(value: T) -> T:
    """Return the value with each string in it redacted: in mappings (also keys), lists, tuples, dataclasses, structs.

    A value without secrets is returned unchanged. Enum members are left as they are.
    """
    return _redacted(value) if _secrets else value


def _redacted(value: Any) -> Any:
    if type(value) is str:
        return redacted(value)
    if isinstance(value, Mapping):
        new: Any = {_redacted(name): _redacted(each) for name, each in value.items()}
    elif type(value) in (list, tuple, frozenset, set):
        new = type(value)(map(_redacted, value))
    elif names := _fields(value):
        changes = {name: new for name in names if (new := _redacted(old := getattr(value, name))) is not old}
        return _replaced(value, changes) if changes else value
    else:
        return value
    return value if new == value else new


def _fields(value: Any) -> Sequence[str]:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return [field.name for field in dataclasses.fields(value) if field.init]
    fields: Sequence[str] = getattr(type(value), "__struct_fields__", ())
    return fields


def _replaced(value: Any, changes: Mapping[str, Any]) -> Any:
    if dataclasses.is_dataclass(value):
        return dataclasses.replace(value, **changes)  # type: ignore[type-var]
    import msgspec

    return msgspec.structs.replace(value, **changes)


# --- every form of a secret ---


@dataclasses.dataclass(frozen=True, slots=True)
class _Forms:
    """Patterns of the secrets' forms.

    `pattern` matches folded text without escapes. Whatever it matches contains one of the `needles`, even with escapes.
    """

    pattern: re.Pattern[bytes]
    needles: tuple[bytes, ...]

    def found_in(self, content: bytes) -> list[tuple[int, int]]:
        """Return where secrets begin and end in UTF-8 text, in order and without overlap."""
        lower = content.lower()
        if not any(needle in lower for needle in self.needles):
            return []
        from pytest_comfyload.escapes import unescape

        plain = unescape(content)
        spans = [found.span() for found in self.pattern.finditer(_folded(content))]
        spans += [plain.span(*found.span()) for found in self.pattern.finditer(_folded(plain.content))]
        return _apart(spans)


def _apart(spans: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return the spans in order, with overlapping ones merged."""
    joined: list[tuple[int, int]] = []
    for begin, end in sorted(spans):
        if joined and begin < joined[-1][1]:
            begin, end = joined[-1][0], max(end, joined.pop()[1])
        joined.append((begin, end))
    return joined


# Unifies what encodings spell differently: upper and lower case, a space and its `+`, both Base64 alphabets.
_FOLDED = bytes.maketrans(b"+-_", b"  /")


def _folded(content: bytes) -> bytes:
    """Normalize the spelling of UTF-8 text without changing its length."""
    return content.lower().translate(_FOLDED)


@functools.lru_cache(maxsize=8)
def _forms_of(secrets: frozenset[str]) -> _Forms:
    forms = {form: rest for each in secrets for form, rest in _forms(each)}
    # At each position the longest form is matched, so that nothing of it is left.
    ordered = sorted(forms, key=lambda form: (-len(form), form))
    needles: list[bytes] = []
    for needle in sorted((max(re.findall(rb"[a-z0-9]+", form), key=len, default=b"") for form in forms), key=len):
        if not any(shorter in needle for shorter in needles):
            needles.append(needle)
    return _Forms(re.compile(b"|".join(_escaped(form) + forms[form] for form in ordered)), tuple(needles))


def _escaped(form: bytes) -> bytes:
    """Return the form as a pattern; Python's `repr` writes one byte for some letters that take two in UTF-8."""
    return re.sub(
        rb"[\xc2\xc3][\x80-\xbf]",
        lambda letter: b"(?:%b|%b)" % (letter[0], letter[0].decode().encode("latin-1")),
        re.escape(form),
    )


def _forms(secret: str) -> Iterator[tuple[bytes, bytes]]:
    """Yield each form of the secret, folded, and the pattern of what may follow it and belongs to it."""
    from pytest_comfyload.escapes import unescape

    for spelled in (secret, secret.lower(), secret.upper()):
        content = spelled.encode("utf-8", "surrogatepass")
        yield from ((_folded(each), b"") for each in (content, unescape(content).content) if each)
    yield from _in_base64(secret.encode("utf-8", "surrogatepass"))


def _in_base64(content: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield its three Base64 spellings, one per alignment, without the characters that adjacent bytes affect."""
    for before in range(3):
        first, last = (before * 8 + 5) // 6, (before + len(content)) * 8 // 6
        coded = base64.b64encode(b"\0" * before + content)[first:last]
        yield _folded(coded), b"[a-z0-9/]?=*" if (before + len(content)) % 3 else b""


def _decoded(word: str) -> str:
    """Return decoded Base64 text; empty if it is invalid."""
    try:
        return base64.b64decode(word + "=" * (-len(word) % 4), altchars=b"-_", validate=True).decode()
    except ValueError:
        return ""
