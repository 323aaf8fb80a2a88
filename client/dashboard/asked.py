"""Questions previewed: patient data, made when somebody asks for it and shown to them alone."""

from __future__ import annotations

from functools import partial
from html import escape
from pathlib import Path

from client.dashboard.parts import part
from client.preview.questions import Preview, previews
from client.preview.text import NOTICE, title, visible
from client.site.config import load_site
from common.codebook import load_codebook
from common.config import PAPER
from common.pages.page import Section, paragraph
from common.questions.question import Consultation, QuestionMaker
from common.web.visit import Answer, Document, Visit, whole

_VIEW = "full"
_MOST = 50


def questions(folder: Path, visit: Visit) -> Answer:
    """Return the page that asks what is wanted; no record is read for it."""
    return Document("Questions", _LEAD, [part("What to show", partial(_form, folder, visit))])


def shown(folder: Path, visit: Visit) -> Answer:
    """Return questions of this site's registry, with what is hidden from the model and the truth."""
    found = previews(
        folder,
        item=visit.form.get("feature") or None,
        count=whole(visit.form.get("count", ""), 10, 1, _MOST),
        view=_VIEW,
        seed=whole(visit.form.get("seed", ""), 0, 0, 10**9),
    )
    sections = [
        Section("Patient data", paragraph(NOTICE, "warn")),
        Section("Every prompt begins with", paragraph(PAPER.system)),
        *(
            Section(f"{number} of {len(found)}: {visible(title(preview))}", _question(preview))
            for number, preview in enumerate(found, start=1)
        ),
        part("What to show", partial(_form, folder, visit)),
    ]
    return Document("Questions", _LEAD, sections, records=True)


_LEAD = "As the model would see them. They hold patient data: only who may read the registry may look."


def _form(folder: Path, visit: Visit) -> str:
    codebook = load_codebook(load_site(folder).codebook)
    maker = QuestionMaker(codebook, _VIEW)
    names = [*maker.weights, *(task.name for task in maker.consultations)]
    wanted = visit.form.get("feature", "")
    options = "".join(
        f'<option value="{escape(name)}"{" selected" if name == wanted else ""}>{escape(label)}</option>'
        for name, label in [("", "everything that is asked"), *((name, name) for name in names)]
    )
    count = whole(visit.form.get("count", ""), 10, 1, _MOST)
    seed = whole(visit.form.get("seed", ""), 0, 0, 10**9)
    fields = (
        f'<label>Feature or task <select name="feature">{options}</select></label>'
        f'<label>How many <input name="count" type="number" min="1" max="{_MOST}" value="{count}"></label>'
        f'<label>Seed: another number shows other patients <input name="seed" type="number" min="0" value="{seed}">'
        "</label>"
    )
    form = visit.form_of("/questions/shown", fields, "Show patient data")
    return f'{paragraph(NOTICE, "warn")}<div class="stacked">{form}</div>'


def _question(preview: Preview) -> str:
    lines = "".join(
        f'<p class="note">{escape(visible(line.text))}</p>' if line.hidden else paragraph(visible(line.text))
        for line in preview.lines
    )
    asked = preview.asked
    text = f"<p><strong>{escape(visible(asked.text))}</strong></p>"
    if isinstance(asked, Consultation):
        return lines + text + paragraph(f"Reference: {visible(asked.reference)}", "good")
    choices = "".join(
        f'<li class="good">{escape(visible(choice))} (the truth)</li>'
        if place == asked.answer
        else f"<li>{escape(visible(choice))}</li>"
        for place, choice in enumerate(asked.choices)
    )
    return f'{lines}{text}<ol type="A">{choices}</ol>'
