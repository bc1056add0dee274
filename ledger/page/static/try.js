// Says that an answer is on its way, and keeps the question from being asked twice.
const form = document.querySelector("form.trying");
const button = form.querySelector("button");
const label = button.textContent;

function wait(waiting) {
  button.disabled = waiting;
  button.textContent = waiting ? "Asking…" : label;
  form.querySelector("[role=status]").textContent = waiting ? "The model is being asked…" : "";
}

form.addEventListener("submit", () => wait(true));
// The browser's way back shows the page as it was left.
window.addEventListener("pageshow", () => wait(false));
