"use strict";
// Everything is on the page already; this only shows, hides, sorts and copies.
document.documentElement.classList.add("scripting");

const all = (root, selector) => Array.from(root.querySelectorAll(selector));

function armToggles(run) {
  const boxes = all(run, "[data-toggle-arm]");
  const update = () => {
    const hidden = new Set(boxes.filter((box) => !box.checked).map((box) => box.dataset.toggleArm));
    all(run, "svg.chart [data-arm]").forEach((mark) => {
      mark.classList.toggle("hidden-arm", hidden.has(mark.dataset.arm));
    });
  };
  boxes.forEach((box) => box.addEventListener("change", update));
  return update;
}

function scales(run) {
  const buttons = all(run, "[data-scale-button]");
  const figures = all(run, "svg[data-measure]");
  buttons.forEach((button) => button.addEventListener("click", () => {
    buttons.forEach((other) => other.setAttribute("aria-pressed", String(other === button)));
    new Set(figures.map((svg) => svg.dataset.measure)).forEach((measure) => {
      const own = figures.filter((svg) => svg.dataset.measure === measure);
      const wanted = button.dataset.scaleButton; // accuracies have no logarithmic view
      const shown = own.find((svg) => svg.dataset.scale === wanted) || own.find((svg) => svg.dataset.scale === "linear");
      own.forEach((svg) => { svg.closest("figure").hidden = svg !== shown; });
    });
  }));
}

function curves(run, update) {
  const select = run.querySelector("[data-choose-curve]");
  if (!select) return;
  const place = run.querySelector(".chosen-curve");
  select.addEventListener("change", () => {
    const template = select.value === "" ? null : run.querySelector(`template[data-curve="${select.value}"]`);
    place.replaceChildren(...(template ? [template.content.cloneNode(true)] : []));
    update();
  });
}

function sorting(table) {
  const body = table.tBodies[0];
  const heads = all(table, "thead th");
  const value = (row, column) => {
    const cell = row.cells[column];
    if (cell.dataset.value === undefined) return cell.textContent.trim();
    return cell.dataset.value === "" ? NaN : Number(cell.dataset.value);
  };
  const compare = (a, b) => {
    if (typeof a === "string") return a < b ? -1 : a > b ? 1 : 0;
    return a - b;
  };
  heads.forEach((head, column) => head.querySelector(".sort").addEventListener("click", () => {
    const down = head.getAttribute("aria-sort") === "ascending";
    heads.forEach((other) => other.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    const rows = Array.from(body.rows, (row) => [value(row, column), row]);
    const missing = (entry) => Number.isNaN(entry[0]);
    rows.sort((a, b) => {
      if (missing(a) || missing(b)) return missing(a) - missing(b); // what is missing stays last
      return down ? compare(b[0], a[0]) : compare(a[0], b[0]);
    });
    body.append(...rows.map((entry) => entry[1]));
  }));
}

// A number is one of a row's numbers, after a column's name one of that column; anything else is part of its text.
function matcher(query, heads) {
  const words = query.toLowerCase().split(/\s+/).filter(Boolean);
  const tests = words.map((word, i) => {
    const column = heads.indexOf(word);
    if (column >= 0 && i + 1 < words.length) return () => true;
    const within = i > 0 ? heads.indexOf(words[i - 1]) : -1;
    const number = Number(word);
    if (Number.isNaN(number)) return (row) => row.textContent.toLowerCase().includes(word);
    return (row) => Array.from(row.cells).some((cell, place) => (within < 0 || within === place)
      && cell.dataset.value !== undefined && cell.dataset.value !== "" && Number(cell.dataset.value) === number);
  });
  return (row) => tests.every((test) => test(row));
}

function filter(run) {
  const input = run.querySelector("[data-filter-trials]");
  if (!input) return;
  const section = input.closest("section");
  const rows = Array.from(section.querySelector("tbody").rows);
  const heads = all(section, "thead th").map((head) => head.textContent.trim().toLowerCase());
  const told = section.querySelector("output");
  input.addEventListener("input", () => {
    const matches = matcher(input.value, heads);
    rows.forEach((row) => { row.hidden = !matches(row); });
    told.textContent = `${rows.filter((row) => !row.hidden).length} of ${rows.length}`;
  });
}

function copying(button) {
  button.addEventListener("click", async () => {
    const text = document.getElementById(button.dataset.copy);
    try {
      await navigator.clipboard.writeText(text.textContent);
      button.textContent = "Copied";
    } catch {
      const range = document.createRange(); // no permission: select it, so that a key copies it
      range.selectNodeContents(text);
      getSelection().removeAllRanges();
      getSelection().addRange(range);
      button.textContent = "Selected";
    }
    setTimeout(() => { button.textContent = "Copy"; }, 2000);
  });
}

all(document, ".run").forEach((run) => {
  scales(run);
  curves(run, armToggles(run));
  filter(run);
});
all(document, "table.sortable").forEach(sorting);
all(document, ".copy").forEach(copying);
addEventListener("beforeprint", () => all(document, "details").forEach((part) => { part.open = true; }));
