// Filters rows by kernel, outcome and text. Without this script the page shows everything.
"use strict";

const form = document.querySelector("#filters");
const table = document.querySelector("#tests");
const nothing = document.querySelector("#nothing");
const columns = document.head.appendChild(document.createElement("style"));

const kernels = [...form.querySelectorAll("[name=kernel]")].map((box) => box.value);

// The content of each row, read once.
const files = [...table.tBodies].map((body) => ({
  body,
  rows: [...body.rows].slice(1).map((row) => ({
    row,
    name: `${body.rows[0].textContent}::${row.cells[0].textContent}`.toLowerCase(),
    differs: row.querySelector("small") !== null,
    cells: [...row.cells].slice(1).map((cell) => ({
      outcome: cell.className,
      cause: cell.firstElementChild?.hash.slice(1),
    })),
  })),
}));

const reasons = new Map();

function reason(id) {
  if (!reasons.has(id)) {
    const text = document.getElementById(id).querySelector(".reason").textContent;
    reasons.set(id, text.toLowerCase());
  }
  return reasons.get(id);
}

// The values that are ticked; all of them where none is.
function chosen(name, all) {
  const ticked = [...form.querySelectorAll(`[name=${name}]:checked`)].map((box) => box.value);
  return new Set(ticked.length ? ticked : all);
}

function matches(entry, cells, words, outcomes) {
  if (form.elements.differs.checked && !entry.differs) return false;
  const shown = cells.map((column) => entry.cells[column]).filter((cell) => cell.outcome);
  if (!shown.some((cell) => !outcomes || outcomes.has(cell.outcome))) return false;
  return words.every(
    (word) =>
      entry.name.includes(word) ||
      shown.some((cell) => cell.cause && reason(cell.cause).includes(word)),
  );
}

function filter() {
  const ids = chosen("kernel", kernels);
  const cells = kernels.flatMap((kernel, column) => (ids.has(kernel) ? [column] : []));
  const ticked = chosen("outcome", []);
  const outcomes = ticked.size ? ticked : null;
  const words = form.elements.text.value.toLowerCase().split(/\s+/).filter(Boolean);

  let shown = 0;
  let all = 0;
  for (const { body, rows } of files) {
    let here = 0;
    for (const entry of rows) {
      const hidden = !matches(entry, cells, words, outcomes);
      if (entry.row.hidden !== hidden) entry.row.hidden = hidden;
      here += hidden ? 0 : 1;
    }
    body.hidden = here === 0;
    shown += here;
    all += rows.length;
  }
  columns.textContent = kernels
    .map((kernel, column) =>
      ids.has(kernel) ? "" : `#tests :is(th, td):nth-child(${column + 2}) { display: none }`,
    )
    .concat(`#tests { --kernels: ${ids.size} }`)
    .join("\n");
  const tests = all === 1 ? "1 test" : `${all} tests`;
  form.querySelector("output").textContent = shown === all ? tests : `${shown} of ${tests}`;
  nothing.hidden = shown > 0 || all === 0;
}

form.addEventListener("input", filter);
form.addEventListener("submit", (event) => event.preventDefault());
nothing.querySelector("button").addEventListener("click", () => {
  form.reset();
  filter();
});

// The details of a cell are open while the address names them, so that the browser's way back works.
addEventListener("keydown", (event) => {
  if (event.key === "Escape" && location.hash.length > 1) location.hash = "_";
});

form.hidden = false;
filter();
