// Search as one types, and the keys of the search box: "/" goes to it, the arrows go through what
// was found, Escape comes back. Without this script the form does the same at a press of Enter.
const WAIT = 150;
const form = document.querySelector("form[role=search]");
const box = form?.elements.q;
const found = document.getElementById(form?.dataset.found ?? "");
const count = document.getElementById("found-count");
let timer = 0;
let asking = new AbortController();

async function ask() {
  asking.abort();
  asking = new AbortController();
  const query = new URLSearchParams(new FormData(form));
  query.set("part", "hits");
  try {
    const answer = await fetch(`${form.getAttribute("action")}?${query}`, { signal: asking.signal });
    if (answer.status === 401) location.reload();
    const page = new DOMParser().parseFromString(await answer.text(), "text/html");
    const part = page.querySelector("[data-count]");
    show(part ?? page.querySelector(".note"), part);
  } catch (error) {
    if (error.name !== "AbortError") count.textContent = "ledger serve does not answer";
  }
}

function show(what, part) {
  found.replaceChildren(...(what ? [what] : []));
  count.textContent = part?.dataset.count ?? "";
  if (part) history.replaceState(null, "", part.dataset.address);
}

function later() {
  clearTimeout(timer);
  timer = setTimeout(ask, WAIT);
}

function step(by) {
  const links = [...found.querySelectorAll(".hits > li > a")];
  const next = links.indexOf(document.activeElement) + by;
  (next < 0 ? box : links[next])?.focus();
}

function isTyping(element) {
  return element.isContentEditable || /^(INPUT|TEXTAREA|SELECT)$/.test(element.tagName);
}

function press(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || event.isComposing) return;
  const isInside = found && (event.target === box || found.contains(event.target));
  const steps = { ArrowDown: 1, ArrowUp: -1 };
  if (event.key === "/" && !isTyping(event.target)) box.focus();
  else if (event.key in steps && isInside) step(steps[event.key]);
  else if (event.key === "Escape" && isInside && event.target !== box) box.focus();
  else return;
  event.preventDefault();
}

if (box) document.addEventListener("keydown", press);
if (found) {
  form.addEventListener("input", later);
  form.addEventListener("submit", () => clearTimeout(timer));
}
