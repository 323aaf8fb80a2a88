"""Text of a data dictionary as a prompt shows it: without HTML, on one line, the unit apart from the label."""

from __future__ import annotations

import html
import re
import unicodedata

_UNSHOWN = re.compile(r"<!--.*?-->|<(style|script)\b.*?</\1\s*>", re.DOTALL | re.IGNORECASE)
_INLINE = "a|abbr|b|big|code|em|font|i|label|mark|s|small|span|strike|strong|sub|sup|tt|u"
_BLOCK = (
    "blockquote|br|button|center|div|dd|dl|dt|h[1-6]|hr|iframe|img|input|li|ol|p|pre|"
    "table|tbody|td|tfoot|th|thead|tr|ul|video"
)
_ATTRIBUTES = r"""(?:\s+[\w:-]+\s*=\s*(?:"[^"]*"|'[^']*'|[^\s"'<>]+))*+\s*/?"""
_INLINE_TAG = re.compile(rf"</?(?:{_INLINE}){_ATTRIBUTES}>", re.IGNORECASE)
_BLOCK_TAG = re.compile(rf"</?(?:{_BLOCK}){_ATTRIBUTES}>", re.IGNORECASE)

_ATOM = (
    r"(?:(?:[kmuµμnpf]|mc)?(?:g|mol|L|l|Eq|U|IU|m|s|Pa|cal|J|W|V)|dL|dl|cm|kg|lbs?|oz|in|inch(?:es)?|mmHg|cmH2O|H2O|Hg|bar|"
    r"min|mins|minutes?|seconds?|secs?|h|hrs?|hours?|d|days?|weeks?|wks?|months?|years?|yrs?|"
    r"[°º]\s?[CF]|C|F|%|bpm|breaths|beats|cells|copies|units?|"
    r"kilograms?|grams?|milligrams?|pounds?|cent[i]?met(?:er|re)s?|met(?:er|re)s?|lit(?:er|re)s?|"
    r"10\s?[\^*]\s?\d{1,2}|10[⁰¹²³⁴⁵⁶⁷⁸⁹]+|1000)"
)
_ONE = rf"{_ATOM}(?:[²³23]|\^[23])?(?:\s?(?:/|·|\*|\bper\b|x)\s?{_ATOM}(?:[²³23]|\^[23])?){{0,4}}"
_UNIT = re.compile(rf"{_ONE}(?:\s(?:or|and)\s{_ONE}){{0,3}}")
_ENDS = (re.compile(r"(.*\S)\s*[(\[](?:in )?([^()\[\]]+)[)\]]\s*:?"), re.compile(r"(.*\S)\s*,\s*(?:in )?(\S+?)\s*:?"))

_QUESTION = re.compile(r"(.*?[\w)\]\"']\s?\?)(?=\s+[^\s(\[])", re.DOTALL)
_TOLD = (
    r"please|enter|record|select|tick|choose|specify|note|use|complete|indicate|check|include|exclude|do not|leave|see|"
    r"refer|if|e\.?g|i\.?e|for example|such as|one form|answer|based on|as defined|defined as"
)
_ASIDE = re.compile(rf"\s*[(\[](?:{_TOLD})\b[^()\[\]]*[)\]]\s*$", re.IGNORECASE)
_SENTENCE = re.compile(rf"(.+?[\w)\]])[.;:]\s+(?=(?:{_TOLD})\b)", re.IGNORECASE | re.DOTALL)


def plain_text(text: str) -> str:
    """Return text without HTML, its entities decoded, on one line.

    Only what is a tag of HTML is taken out: "<5 mmol/L" and "a <b and> c" stay.
    """
    text = _BLOCK_TAG.sub(" ", _INLINE_TAG.sub("", _UNSHOWN.sub(" ", text)))
    text = "".join(" " if unicodedata.category(sign) == "Cc" else sign for sign in html.unescape(text))
    return " ".join(text.split())


def readable(name: str) -> str:
    """Return the name of a form, field or event as words."""
    return " ".join(name.split("_")).strip().capitalize() or name


def unit_of(text: str) -> str:
    """Return a text that is a unit of measurement and nothing else; else ""."""
    return text if _UNIT.fullmatch(text) else ""


def asked(label: str) -> str:
    """Return a label without what tells the person who fills in the form: up to its question, without instructions.

    "Is the patient ventilated? Tick yes if ..." gives "Is the patient ventilated?"; a bracket that the cut would leave
    open keeps the whole.
    """
    for pattern in (_QUESTION, _SENTENCE):
        cut = pattern.match(label)
        if cut and all(cut[1].count(opened) == cut[1].count(closed) for opened, closed in ("()", "[]")):
            label = cut[1]
    while len(shorter := _ASIDE.sub("", label)) < len(label) and shorter:
        label = shorter
    return label.rstrip(" :")


def split_unit(label: str) -> tuple[str, str]:
    """Split a label that ends in its unit, as in "Weight (kg)", into label and unit; "" where there is none."""
    for pattern in _ENDS:
        parts = pattern.fullmatch(label)
        if parts and (unit := unit_of(parts[2].strip())):
            return parts[1], unit
    return label, ""
