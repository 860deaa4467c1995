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

// What a mark, a heading or a cell says is shown to a mouse, a finger and a keyboard.
const tip = document.createElement("div");
tip.id = "tip"; tip.hidden = true; tip.setAttribute("role", "tooltip");
document.body.append(tip);
const show = (mark, text) => {
  const box = mark.getBoundingClientRect();
  tip.textContent = text;
  tip.hidden = false;
  tip.style.left = Math.max(8, Math.min(box.left + box.width / 2, innerWidth - tip.offsetWidth - 8)) + "px";
  const above = box.top - tip.offsetHeight - 8;
  tip.style.top = (above > 4 ? above : box.bottom + 8) + "px";
};
const hide = () => { tip.hidden = true; };
const tell = (mark, text) => {
  for (const name of ["mouseenter", "focus", "click"]) mark.addEventListener(name, () => show(mark, text));
  for (const name of ["mouseleave", "blur"]) mark.addEventListener(name, hide);
};
const marks = "figure svg [role='graphics-symbol'][aria-label]:not([aria-roledescription='axis'], [aria-roledescription='legend'])";
for (const mark of all(marks)) {
  mark.setAttribute("tabindex", "0");
  tell(mark, mark.getAttribute("aria-label"));
}
for (const one of all("[title]")) {
  const text = one.title;
  one.removeAttribute("title");
  if (!text) continue;
  one.setAttribute("aria-description", text);
  tell(one, text);
}
addEventListener("keydown", event => { if (event.key === "Escape") hide(); });

// A matrix is one stop of the keyboard, and its arrows go from cell to cell.
for (const matrix of all(".matrix")) {
  const cells = all("td[tabindex]", matrix);
  for (const cell of cells.slice(1)) cell.tabIndex = -1;
  const at = (row, column) => matrix.tBodies[0].rows[row]?.cells[column];
  matrix.addEventListener("keydown", event => {
    const [down, right] = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key] ?? [0, 0];
    const cell = event.target.closest("td");
    if (!cell || !(down || right)) return;
    event.preventDefault();
    let [row, column] = [cell.parentNode.sectionRowIndex + down, cell.cellIndex + right], next = at(row, column);
    while (next && !cells.includes(next)) next = at(row += down, column += right);
    if (!next) return;
    cell.tabIndex = -1; next.tabIndex = 0; next.focus();
  });
}
addEventListener("scroll", hide, { passive: true });

// Wide tables say that they go on.
const wide = () => {
  for (const one of all(".scroll")) {
    one.previousElementSibling.classList.toggle("on", one.scrollWidth > one.clientWidth + 1);
  }
};
addEventListener("resize", wide);
wide();

// Paper shows what is folded.
let folded = [];
addEventListener("beforeprint", () => { folded = all("details:not([open])"); for (const one of folded) one.open = true; });
addEventListener("afterprint", () => { for (const one of folded) one.open = false; });

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
