// A page that follows what it shows: sections come anew as they change. Without this script the page is as it was loaded.
"use strict";

const note = document.getElementById("live");
const waiting = new Map();

function put(id, html) {
  const body = document.getElementById(id + "-body");
  if (!body) return;
  // Not under the hands of somebody who writes; it is put there once they leave it.
  if (body.contains(document.activeElement) && document.activeElement.matches("input, textarea, select")) {
    waiting.set(id, html);
    return;
  }
  const open = [...body.querySelectorAll("details")].map(one => one.open);
  const focus = [...body.querySelectorAll("a, button, summary, [tabindex]")].indexOf(document.activeElement);
  const across = [...body.querySelectorAll(".scroll")].map(one => one.scrollLeft);
  body.innerHTML = html;
  body.querySelectorAll("details").forEach((one, i) => { one.open = open[i] ?? one.open; });
  body.querySelectorAll(".scroll").forEach((one, i) => { one.scrollLeft = across[i] ?? 0; });
  if (focus >= 0) body.querySelectorAll("a, button, summary, [tabindex]")[focus]?.focus({ preventScroll: true });
}

document.addEventListener("focusout", () => setTimeout(() => {
  const late = [...waiting];
  waiting.clear();
  late.forEach(([id, html]) => put(id, html));
}));

const source = new EventSource(location.href);
source.addEventListener("section", event => {
  const { id, html } = JSON.parse(event.data);
  put(id, html);
});
source.addEventListener("other", () => location.reload());
source.addEventListener("end", () => { source.close(); location.reload(); });
source.onopen = () => { note.textContent = "Live"; };
source.onerror = () => { note.textContent = "Not connected; trying again"; };
