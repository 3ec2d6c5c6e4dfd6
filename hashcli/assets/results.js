// Arrow keys move among the photos, Enter opens one (it is a link), "/" filters, n and p go to the next query.
"use strict";
const filter = document.querySelector("#filter");
const shownCount = document.querySelector("#count");
const sections = [...document.querySelectorAll(".query")];
const items = [...document.querySelectorAll(".results li")];
const texts = new Map(items.map((item) => [item, item.dataset.text.toLowerCase()]));
let shown = items;

const cardOf = (item) => item.querySelector(".card");
const current = () => shown.indexOf(document.activeElement.closest?.("li"));

function go(item) {
  if (!item) return;
  cardOf(item).focus({ preventScroll: true });
  item.scrollIntoView({ block: "nearest" });
}

// The item in the row above (-1) or below (+1) whose left edge is nearest.
function vertical(from, step) {
  const here = shown[from].getBoundingClientRect();
  let row = null, best = null, gap = Infinity;
  for (let i = from + step; i >= 0 && i < shown.length; i += step) {
    const box = shown[i].getBoundingClientRect();
    if (Math.abs(box.top - here.top) < 2) continue;
    if (row === null) row = box.top;
    if (Math.abs(box.top - row) > 2) break;
    if (Math.abs(box.left - here.left) < gap) { gap = Math.abs(box.left - here.left); best = shown[i]; }
  }
  return best;
}

function otherQuery(step) {
  const at = sections.indexOf(document.activeElement.closest?.(".query"));
  for (let i = at + step; i >= 0 && i < sections.length; i += step) {
    const first = shown.find((item) => sections[i].contains(item));
    if (first) { sections[i].scrollIntoView({ block: "start" }); cardOf(first).focus({ preventScroll: true }); return; }
  }
}

function apply() {
  const words = filter.value.toLowerCase().split(/\s+/).filter(Boolean);
  shown = items.filter((item) => {
    const keep = words.every((word) => texts.get(item).includes(word));
    item.hidden = !keep;
    return keep;
  });
  shownCount.textContent = words.length ? `${shown.length} of ${items.length}` : "";
}

filter.addEventListener("input", apply);
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.target === filter) {
    if (event.key === "Escape") { filter.value = ""; apply(); }
    if (event.key === "Escape" || event.key === "Enter" || event.key === "ArrowDown") {
      event.preventDefault();
      filter.blur();
      go(shown[0]);
    }
    return;
  }
  const at = current();
  const moves = {
    ArrowRight: () => go(shown[at + 1]),
    ArrowLeft: () => go(shown[Math.max(0, at - 1)]),
    ArrowDown: () => go(at < 0 ? shown[0] : vertical(at, 1)),
    ArrowUp: () => go(at < 0 ? shown[0] : vertical(at, -1)),
    Home: () => go(shown[0]),
    End: () => go(shown.at(-1)),
    n: () => otherQuery(1),
    p: () => otherQuery(-1),
    "/": () => { filter.focus(); filter.select(); },
    Escape: () => { filter.value = ""; apply(); go(shown[Math.max(0, current())]); },
  };
  const move = moves[event.key];
  if (move) { event.preventDefault(); move(); }
});
