"""The guard against secrets: a job's row is read by people, dumps and logs, so a secret is passed by reference.

Names and shapes that are known, nothing by entropy: what is refused can be explained, and what is let through is not
thereby harmless.
"""

import base64
import re
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any

REDACTED = "[redacted]"
LONGEST_NAME = 60  # a longer key is text, not a name


def words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# The last word of a name, or its last two, says what it holds: `reset_password` is one, `password_reset` is none.
LAST_WORDS = words(
    "password passwd passwort pwd passphrase passcode secret token authorization cookie cvv cvv2 cvc cvc2 cvn apikey "
    "accesskey secretkey privatekey credential credentials jwt ssn otp"
)
LAST_TWO = frozenset(
    f"{word} key" for word in words("api access secret private signing encryption auth master account")
)
LAST_TWO |= {"card number", "card no", "security code", "pin code", "auth header", "session id", "connection string"}
LAST_TWO |= {"recovery code", "backup code"}
# Tokens that open nothing.
HARMLESS = words(
    "page cursor continuation pagination sync lease cancel cancellation next previous change idempotency dedupe fence "
    "fencing settled max min stop start end unknown"
)
# Under which a plain number is a secret too; `token: 3` counts something.
NUMBERS_TOO = words("password passcode cvv cvv2 cvc cvc2 cvn ssn otp")
NUMBERS_TOO_TWO = frozenset({"card number", "card no", "security code", "pin code"})

WORDS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")

# Each alternative begins with a letter, never with a choice: Python then passes quickly over whatever begins none.
SHAPES = {
    "a private key": (
        r"-----BEGIN (?:[A-Z0-9]+ ){0,3}PRIVATE KEY(?: BLOCK)?-----[\s\S]*?(?:-----END [A-Z0-9 ]{0,30}-----|\Z)"
    ),
    "a JSON web token": r"eyJ[\w-]{8,500}\.eyJ[\w-]{8,}\.[\w-]*",
    "an AWS key": r"AKIA[0-9A-Z]{16}(?![0-9A-Z])|ASIA[0-9A-Z]{16}(?![0-9A-Z])",
    "a Google key": r"AIza[\w-]{35}(?![\w-])|ya29\.[\w-]{20,}|GOCSPX-[\w-]{20,}",
    "a GitHub token": r"gh[pousr]_[A-Za-z0-9]{36,}|github_pat_\w{22,}",
    "a GitLab token": r"gl(?:pat|dt|rt|ptt)-[\w-]{20,}",
    "a Slack token": r"xox[abeoprs]-[\w-]{10,}|xapp-\d-[\w-]{10,}|hooks\.slack\.com/services/T\w+/B\w+/\w{10,}",
    "a Stripe key": r"sk_(?:live|test)_\w{16,}|rk_(?:live|test)_\w{16,}|whsec_[\w+/=]{16,}",
    "an AI provider's key": r"sk-[A-Za-z0-9_-]{20,}|hf_[A-Za-z]{30,}|r8_\w{30,}|gsk_\w{30,}",
    "a mail provider's key": (
        r"SG\.[\w-]{16,}\.[\w-]{16,}|key-[0-9a-f]{32}(?![0-9a-f])|xkeysib-[0-9a-f]{32,}|re_[A-Za-z0-9]{8,}_\w{16,}"
    ),
    "a registry's token": r"npm_[A-Za-z0-9]{36}|pypi-AgEI[\w-]{20,}|dckr_pat_[\w-]{20,}",
    "a cloud provider's key": r"dop_v1_[0-9a-f]{64}|AccountKey=[\w+/=]{40,}",
    "a shop's key": r"shp(?:at|ca|pa|ss)_[0-9a-fA-F]{32}|sq0(?:atp|csp)-[\w-]{20,}",
    "a password in an address": r"://[^\s/:@?#'\"]{0,100}:[^\s/@?#'\"]{1,200}@[\w.\[-]",
    "an Authorization header": (
        r"Bearer\s+[\w.~+/-]{16,}=*|bearer\s+[\w.~+/-]{16,}=*"
        r"|Basic\s+[A-Za-z0-9+/]{11,}={0,2}(?![\w+/])|basic\s+[A-Za-z0-9+/]{11,}={0,2}(?![\w+/])"
    ),
}
CARD = "|".join(rf"{first}\d{{3}}(?:[ -]?\d{{2,6}}){{2,4}}(?![ -]?\d)" for first in "23456")
FOUND = re.compile("|".join([*SHAPES.values(), CARD]))
NAMED = [(what, re.compile(shape)) for what, shape in SHAPES.items()]
MASK = re.compile(r"\*+|[xX]{3,}|•+|\[redacted\]|<[a-z _-]+>")
LONGEST_USER = 20  # a longer one may be a key
DIGITS = re.compile(r"\D")
CARDS = re.compile(
    r"4\d{15}|5[1-5]\d{14}|2(?:22[1-9]|2[3-9]\d|[3-6]\d\d|7[01]\d|720)\d{12}|3[47]\d{13}|6(?:011|5\d\d|4[4-9]\d)\d{12}"
    r"|35(?:2[89]|[3-8]\d)\d{12}|3(?:0[0-5]|[68]\d)\d{11}"
)
SHORTEST = 12  # no shape is shorter
CARD_NUMBERS = range(10**13, 10**16)
PLAIN = frozenset({int, float, bool, type(None)})

# Names in free text, such as an exception's: `password=hunter2`, `'token': 'abc'`. Only those that may be a secret's:
# a harmless one would hide the next in its value.
ASSIGNED = re.compile(
    r"(?<![\w-])(?P<name>[\w-]{0,50}?"
    r"(?:pass(?:word|wd|wort|phrase|code)|pwd|secret|token|key|authorization|cookie|cv[vcn]2?|jwt|ssn|otp|credentials?"
    r"|number|no|code|header|id|string)\d{0,3})"
    r"(?P<sign>[\"']?\s{0,9}(?:=>|[:=])\s{0,9})"
    r"(?P<value>\"[^\"\n]*\"|'[^'\n]*'|[^\s,;&)}\]\"']+)",
    re.IGNORECASE,
)
# In a line of code, as a traceback quotes it, a name, a call or a keyword: `token=make_token(user`, `if token: return`.
CODE = re.compile(
    r"[A-Za-z_][\w.]*[(\[].*|(?:self|cls|settings|os|request|None|True|False)\b[\w.\[\](]*"
    r"|return|raise|pass|break|continue|yield|await|not|if|for|del|with|lambda"
)


@lru_cache(maxsize=4096)
def kind_of_name(name: str) -> int:
    """Return 0 for a harmless name, 1 for one of secret text, 2 for one under which a number is a secret too."""
    if len(name) > LONGEST_NAME:
        return 0
    words = [word.lower() for word in WORDS.findall(name)]
    while words and words[-1].isdigit() and len(words) > 1:
        words.pop()
    if not words:
        return 0
    last, two = words[-1], " ".join(words[-2:])
    joined = "".join(words[-2:])
    if last in LAST_WORDS:
        if last == "token" and len(words) > 1 and words[-2] in HARMLESS:
            return 0
        return 2 if last in NUMBERS_TOO else 1
    if two in LAST_TWO or joined in LAST_WORDS:
        return 2 if two in NUMBERS_TOO_TWO or joined in NUMBERS_TOO else 1
    return 0


def is_secret_under(name: str, value: Any) -> bool:
    """Say whether a value is a secret because of its name. Nothing, yes and no are none."""
    kind = kind_of_name(name)
    if not kind or value is None or isinstance(value, bool) or value in ("", REDACTED):
        return False
    if isinstance(value, int | float):
        return kind == 2
    if isinstance(value, Mapping | list | tuple):
        return any(is_text_in(item) for item in (value.values() if isinstance(value, Mapping) else value))
    return not is_masked(str(value))


def is_text_in(value: Any) -> bool:
    return isinstance(value, str) and bool(value) and not is_masked(value)


def is_masked(text: str) -> bool:
    """Say whether somebody has masked it already: `****`, `xxxx`, `<hidden>`."""
    return not text.strip("*xX•. ") or (text.startswith("<") and text.endswith(">"))


def secret_in_text(text: str) -> str:
    """Return what kind of secret a text contains, or nothing."""
    if len(text) < SHORTEST:
        return ""
    for match in FOUND.finditer(text):
        if what := kind_of(match, text):
            return what
    return ""


def kind_of(match: re.Match[str], text: str) -> str:
    """Return what a match is; nothing when it only looks like it: part of a longer word, or no card's number."""
    found = match.group()
    if found[0].isdigit():
        return "a card number" if is_card(match, text) else ""
    before = text[match.start() - 1] if match.start() else " "
    if before.isalnum() and found[0].isalnum():
        return ""
    what = next((what for what, shape in NAMED if shape.match(found)), "")
    if what == "a password in an address" and is_harmless_address(*found[3:-2].split(":", 1)):
        return ""
    return "" if found[:6].lower() == "basic " and not is_basic(found[6:]) else what


def is_harmless_address(user: str, password: str) -> bool:
    """Say whether the password in an address is masked. Its user may be a key: then the password may be an `x`."""
    return bool(MASK.fullmatch(password)) and len(user) <= LONGEST_USER and not secret_in_text(user)


def is_basic(encoded: str) -> bool:
    """Say whether text is a user and a password as HTTP encodes them, and not the word that follows `basic`."""
    try:
        return b":" in base64.b64decode(encoded.strip(), validate=True)
    except ValueError:
        return False


def is_card(match: re.Match[str], text: str) -> bool:
    before = text[max(0, match.start() - 1) : match.start()]
    after = text[match.end() : match.end() + 1]
    if before.isalnum() or (before in ("-", "_", ".", "+", "/", "=") and before) or after.isalnum() or after == "_":
        return False
    return is_card_number(DIGITS.sub("", match.group()))


def is_card_number(digits: str) -> bool:
    """Say whether digits are a card's number: a known issuer's, of its length, with the right check digit (Luhn)."""
    if not CARDS.fullmatch(digits):
        return False
    total = 0
    for place, digit in enumerate(reversed(digits)):
        n = int(digit) * (1 + place % 2)
        total += n - 9 if n > 9 else n
    return total % 10 == 0 and len(set(digits)) > 1


def may_hold_any(value: Any) -> bool:
    """Say quickly whether `found_in` is worth its time: most payloads hold nothing that even looks like a secret."""
    kind = type(value)
    if kind is str:
        return len(value) >= SHORTEST and FOUND.search(value) is not None
    if kind is dict:
        for name, item in value.items():
            if may_hold_any(item) or (kind_of_name(name) and is_secret_under(name, item)):
                return True
        return False
    if kind is list or kind is tuple:
        return any(may_hold_any(item) for item in value)
    return kind not in PLAIN or (kind is int and value in CARD_NUMBERS)


def found_in(value: Any, path: str, name: str = "") -> Iterator[tuple[str, str]]:
    """Yield the path of each secret in a payload, and what it is; never what it says."""
    if name and is_secret_under(name, value):
        yield path, f"the value of {name!r}, a name of secrets"
    elif isinstance(value, str):
        if what := secret_in_text(value):
            yield path, what
    elif isinstance(value, Mapping):
        for key, item in value.items():
            if isinstance(key, str):
                yield from found_in(item, f"{path}[{key!r}]", key)
    elif isinstance(value, list | tuple):
        for position, item in enumerate(value):
            yield from found_in(item, f"{path}[{position}]")
    elif (
        isinstance(value, int) and not isinstance(value, bool) and value in CARD_NUMBERS and is_card_number(str(value))
    ):
        yield path, "a card number"


def redacted(value: Any, name: str = "") -> Any:
    """Return a payload or return value with each secret in it replaced."""
    if name and is_secret_under(name, value):
        return REDACTED
    if isinstance(value, str):
        return redacted_shapes(value)
    if isinstance(value, Mapping):
        return {key: redacted(item, key if isinstance(key, str) else "") for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [redacted(item) for item in value]
    if isinstance(value, int) and not isinstance(value, bool) and value in CARD_NUMBERS and is_card_number(str(value)):
        return REDACTED
    return value


def redacted_shapes(text: str) -> str:
    if len(text) < SHORTEST:
        return text

    def replaced(match: re.Match[str]) -> str:
        what = kind_of(match, text)
        if not what:
            return match.group()
        if what == "a password in an address":
            return f"://{REDACTED}@{match.group()[-1]}"
        return REDACTED

    return FOUND.sub(replaced, text)


def redacted_text(text: str) -> str:
    """Return free text, such as a message or a traceback, with each secret in it replaced."""

    def replaced(match: re.Match[str]) -> str:
        value = match["value"]
        quote = value[0] if value[0] in "\"'" else ""
        bare = value.strip(quote) if quote else value
        if not quote and CODE.fullmatch(bare):
            return match.group()
        counts = bare.isdigit() and not quote
        if not is_secret_under(match["name"], int(bare[:15]) if counts else bare):
            return match.group()
        return f"{match['name']}{match['sign']}{quote}{REDACTED}{quote}"

    return redacted_shapes(ASSIGNED.sub(replaced, text))
