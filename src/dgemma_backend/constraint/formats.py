"""The string formats of JSON schema that are guaranteed, as patterns for whole strings.

Each gives only strings that are certainly of the format; of the larger ones (mail addresses, host
names, URIs) it is the common part. RFC 3339 for dates and times, without leap seconds; RFC 4122,
2673, 4291, 1123 and ISO 8601 for the others.
"""

from __future__ import annotations

_YEAR = r"(?:000[1-9]|00[1-9]\d|0[1-9]\d\d|[1-9]\d{3})"
_LEAP = r"(?:\d\d(?:0[48]|[2468][048]|[13579][26])|(?:0[48]|[2468][048]|[13579][26])00)"
_DATE = (
    rf"(?:{_YEAR}-(?:(?:0[13578]|1[02])-(?:0[1-9]|[12]\d|3[01])"
    rf"|(?:0[469]|11)-(?:0[1-9]|[12]\d|30)|02-(?:0[1-9]|1\d|2[0-8]))|{_LEAP}-02-29)"
)
_CLOCK = r"(?:[01]\d|2[0-3]):[0-5]\d"
_TIME = rf"{_CLOCK}:[0-5]\d(?:\.\d{{1,6}})?(?:Z|[+-]{_CLOCK})"
_HEX = "[0-9a-fA-F]"
_BYTE = r"(?:\d|[1-9]\d|1\d\d|2[0-4]\d|25[0-5])"
_GROUP = rf"{_HEX}{{1,4}}"
_IPV6 = "|".join(
    [rf"(?:{_GROUP}:){{7}}{_GROUP}"]
    + [rf"{_GROUP}(?::{_GROUP}){{{before - 1}}}::{_GROUP}(?::{_GROUP}){{0,{6 - before}}}"
       for before in range(1, 7)]
    + [rf"{_GROUP}(?::{_GROUP}){{0,6}}::", rf"::{_GROUP}(?::{_GROUP}){{0,6}}", "::"]
)  # fmt: skip
# 32 of the 63 permitted letters in a label, 4 labels: so few that a name is never too long
_LABEL = "[a-z0-9](?:[a-z0-9-]{0,30}[a-z0-9])?"
_HOST = rf"{_LABEL}(?:\.{_LABEL}){{0,2}}\.[a-z]{{2,12}}"
_DAYS = r"(?:\d{1,4}Y(?:\d{1,4}M(?:\d{1,4}D)?)?|\d{1,4}M(?:\d{1,4}D)?|\d{1,4}D)"
_HOURS = r"T(?:\d{1,4}H(?:\d{1,4}M(?:\d{1,4}S)?)?|\d{1,4}M(?:\d{1,4}S)?|\d{1,4}S)"
_URI_LETTER = r"(?:[A-Za-z0-9._~!$&'()*+,;=:@-]|%[0-9A-F]{2})"
_MAIL_WORD = "[A-Za-z0-9_%+-]{1,20}"

FORMATS: dict[str, str] = {
    "date": _DATE,
    "time": _TIME,
    "date-time": f"{_DATE}T{_TIME}",
    "duration": rf"P(?:{_DAYS}(?:{_HOURS})?|{_HOURS}|\d{{1,4}}W)",
    "uuid": rf"{_HEX}{{8}}-{_HEX}{{4}}-{_HEX}{{4}}-{_HEX}{{4}}-{_HEX}{{12}}",
    "email": rf"{_MAIL_WORD}(?:\.{_MAIL_WORD}){{0,2}}@{_HOST}",
    "hostname": _HOST,
    "ipv4": rf"{_BYTE}(?:\.{_BYTE}){{3}}",
    "ipv6": _IPV6,
    "uri": (
        rf"(?:https?|ftp)://{_HOST}(?::\d{{2,4}})?(?:/{_URI_LETTER}*)*"
        rf"(?:\?(?:{_URI_LETTER}|[/?])*)?(?:#(?:{_URI_LETTER}|[/?])*)?"
    ),
}
"""Format -> pattern."""

FREE_FORMATS = frozenset({"password", "path", "file-path", "directory-path", "binary"})
"""Formats that every string has: they tell a form how to show its field."""
