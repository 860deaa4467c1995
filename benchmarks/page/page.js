"use strict";
const all = (selector, root = document) => [...root.querySelectorAll(selector)];

// Tables: a click on a heading sorts by it, a second one the other way; rows without the figure stay last.
for (const button of all("thead button")) {
  button.addEventListener("click", () => {
    const heading = button.closest("th"), body = heading.closest("table").tBodies[0];
    const index = [...heading.parentNode.children].indexOf(heading);
    const down = heading.getAttribute("aria-sort") !== "descending";
    for (const other of heading.parentNode.children) other.removeAttribute("aria-sort");
    heading.setAttribute("aria-sort", down ? "descending" : "ascending");
    const value = row => row.children[index].dataset.value;
    const rows = [...body.rows].sort((a, b) => {
      const [x, y] = [value(a), value(b)];
      if (x === "" || y === "") return (x === "") - (y === "");
      const order = isNaN(x) || isNaN(y) ? String(x).localeCompare(y) : x - y;
      return down ? -order : order;
    });
    body.append(...rows);
  });
}

// Charts: every mark that says something can be reached by mouse and keyboard.
const tip = document.createElement("div");
tip.id = "tip"; tip.hidden = true; tip.setAttribute("role", "tooltip");
document.body.append(tip);
const show = mark => {
  const box = mark.getBoundingClientRect();
  tip.textContent = mark.getAttribute("aria-label");
  tip.hidden = false;
  tip.style.left = Math.max(8, Math.min(box.left + box.width / 2, innerWidth - tip.offsetWidth - 8)) + "px";
  tip.style.top = (box.top > 50 ? box.top - tip.offsetHeight - 8 : box.bottom + 8) + "px";
};
const marks = "figure svg [role='graphics-symbol'][aria-label]:not([aria-roledescription='axis'], [aria-roledescription='legend'])";
for (const mark of all(marks)) {
  mark.setAttribute("tabindex", "0");
  for (const name of ["mouseenter", "focus"]) mark.addEventListener(name, () => show(mark));
  for (const name of ["mouseleave", "blur"]) mark.addEventListener(name, () => { tip.hidden = true; });
}
addEventListener("keydown", event => { if (event.key === "Escape") tip.hidden = true; });
addEventListener("scroll", () => { tip.hidden = true; }, { passive: true });

// Answers: which rows, which prompts, in which order.
const list = document.getElementById("answers");
if (list) {
  const asked = all(".asked", list), search = document.getElementById("search"), order = document.getElementById("order");
  const count = document.getElementById("shown");
  const apply = () => {
    const rows = new Set(all("#rows input:checked").map(box => box.value));
    const wanted = search.value.trim().toLowerCase();
    let shown = 0;
    for (const one of asked) {
      for (const answer of all(".answer", one)) answer.hidden = !rows.has(answer.dataset.row);
      one.hidden = wanted !== "" && !one.textContent.toLowerCase().includes(wanted);
      shown += !one.hidden;
    }
    count.textContent = shown + " of " + asked.length + " prompts";
  };
  search.addEventListener("input", apply);
  for (const box of all("#rows input")) box.addEventListener("change", apply);
  order.addEventListener("change", () => {
    const by = order.value;
    list.append(...[...asked].sort((a, b) => by === "spread" ? b.dataset.spread - a.dataset.spread
      : all(".prompt", a)[0].textContent.localeCompare(all(".prompt", b)[0].textContent)));
  });
  apply();
}
