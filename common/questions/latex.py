r"""What two ways to write a text share: LaTeX read through, case, white space and look-alike characters folded.

`\textbf{2{,}500\,mL}`, `2 500 ml` and `2500mL` differ in their spaces alone. What LaTeX does is not computed: a macro
around one argument leaves the argument; one that is not known, or strikes out, leaves its name with the backslash.
"""

from __future__ import annotations

import re
import unicodedata

_UNSEEN = re.compile(
    r"(?<!\\)\\++(?:color|textcolor|colorbox|[hv]space|[hv]?phantom|label|tag)\*?\s*+(?:\[[^][{}]*\]\s*+)?\{[^{}]*\}"
)
"""A macro whose first argument is not shown. Possessive, as all that follows a run: no input makes it slow."""

_LATEX = re.compile(
    r"\\+(?:(?P<name>[a-zA-Z]+)\*?(?P<argument>\s*+(?:\[[^][{}]*\]\s*+)*+\{)?|(?P<char>[^a-zA-Z]))"
    r"|\}\s*+\{(?!\s*+\})|[{}$~]",
    re.DOTALL,
)
_PLAIN = {"{": "", "}": "", "$": "", "~": " "}
_BETWEEN_ARGUMENTS = "/"
_ARROW = "→"

_SYMBOLS = {
    **dict.fromkeys(("quad", "qquad", "enspace", "thinspace", "space", "newline", "par", "nobreakspace"), " "),
    **dict.fromkeys(("langle", "lbrack", "lparen", "lbrace"), "("),
    **dict.fromkeys(("rangle", "rbrack", "rparen", "rbrace"), ")"),
    **dict.fromkeys(("circ", "degree", "textdegree", "deg"), "°"),
    **dict.fromkeys(("celsius", "degreeCelsius", "textcelsius"), "°C"),
    **dict.fromkeys(("mu", "micro", "textmu", "textmicro"), "\N{GREEK SMALL LETTER MU}"),
    **dict.fromkeys(("leq", "le", "leqslant"), "≤"),
    **dict.fromkeys(("geq", "ge", "geqslant"), "≥"),
    **dict.fromkeys(("lt", "textless"), "<"),
    **dict.fromkeys(("gt", "textgreater"), ">"),
    **dict.fromkeys(("cdot", "cdotp"), "·"),
    **dict.fromkeys(("colon", "textcolon"), ":"),
    **dict.fromkeys(("to", "mapsto", "rightarrow", "Rightarrow", "textrightarrow", "implies"), _ARROW),
    **dict.fromkeys(("longrightarrow", "Longrightarrow", "longmapsto", "rightarrowtail"), _ARROW),
    "approx": "≈",
    "times": "\N{MULTIPLICATION SIGN}",
    "pm": "±",
    "percent": "%",
}
_FONTS = ("text", "math")
_SWITCHES = {
    *("left", "right", "middle", "displaystyle", "textstyle", "scriptstyle", "protect", "centering"),
    *(size + side for size in ("big", "Big", "bigg", "Bigg") for side in ("", "l", "r")),
    *("rm", "bf", "it", "sf", "tt", "sl", "sc", "em", "bm", "boldsymbol", "pmb", "emph", "mbox", "underline"),
    *(family + "family" for family in ("rm", "sf", "tt")),
    *(shape + "shape" for shape in ("it", "sl", "sc", "up")),
    *("bfseries", "mdseries", "normalfont", "boldmath", "unboldmath"),
    *("tiny", "small", "normalsize", "large", "Large", "LARGE", "huge", "Huge"),
}
"""Macros that only change how what follows looks; so do all of `_FONTS`."""

_STRUCK = {"cancel", "bcancel", "xcancel", "sout", "xout", "st", "not", "neg", "lnot", "overline"}
_SAID = "%_#&*-+.\"'`{}|"
_ALIKE = {"Pd": "-", "Ps": "(", "Pe": ")", "Pi": '"', "Pf": '"', "Cf": ""} | dict.fromkeys("⇒⟶⟹⟼↦➔➙➛➜➝➞➡", _ARROW)
"""What a character is read as, by itself or by its category."""

_THOUSANDS = re.compile(r"(?<=\d)[ ,](?=\d{3}(?!\d))")
_RAISED = re.compile(r"(?<=10)(?=[⁺⁻]?[⁰¹²³⁴-⁹])")
_DEGREES = re.compile(r" ?(?:\bdeg(?:rees?)?\b\.?|\^?°)[ /]{0,2}(?=[cf](?![a-z0-9]))| ?\^?°")
_SPREAD = re.compile(r"(?<=[<>≤≥]) | (?=%)")


def unadorned(text: str) -> str:
    """Text without LaTeX, case, thousands separators and more than single spaces."""
    plain = _LATEX.sub(_read, _UNSEEN.sub(" ", unicodedata.normalize("NFKC", _RAISED.sub("^", text))))
    plain = "".join(map(_alike, plain)).casefold()
    plain = _DEGREES.sub("°", " ".join(plain.split()))
    return _THOUSANDS.sub("", _SPREAD.sub("", plain))


def _read(match: re.Match[str]) -> str:
    """Text that a piece of LaTeX stands for; its name with a backslash for what is not known or strikes out."""
    name, char = match["name"], match["char"]
    if name in _SYMBOLS:
        return _SYMBOLS[name]
    if name is not None:
        known = match["argument"] or name in _SWITCHES or name.startswith(_FONTS)
        return f"\\{name}" if name in _STRUCK or not known else ""
    if char is not None:
        return "" if char in "()[]" else char if char in _SAID else " "
    return _PLAIN.get(match[0], _BETWEEN_ARGUMENTS)


def _alike(char: str) -> str:
    """Give all dashes, brackets, quotes one form, and what cannot be seen none."""
    if char == "\N{MINUS SIGN}":
        return "-"
    return _ALIKE.get(char) or _ALIKE.get(unicodedata.category(char), char)
