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
  buttons.forEach((button) => button.addEventListener("click", () => {
    const scale = button.dataset.scaleButton;
    buttons.forEach((other) => other.setAttribute("aria-pressed", String(other === button)));
    all(run, 'svg[data-measure="loss"]').forEach((svg) => {
      svg.closest("figure").hidden = svg.dataset.scale !== scale;
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

function filter(run) {
  const input = run.querySelector("[data-filter-trials]");
  if (!input) return;
  const section = input.closest("section");
  const rows = Array.from(section.querySelector("tbody").rows);
  const texts = rows.map((row) => Array.from(row.cells, (cell) => cell.textContent.trim()).join(" ").toLowerCase());
  const told = section.querySelector("output");
  input.addEventListener("input", () => {
    const wanted = input.value.toLowerCase().split(/\s+/).filter(Boolean);
    let count = 0;
    rows.forEach((row, i) => {
      row.hidden = !wanted.every((word) => texts[i].includes(word));
      count += row.hidden ? 0 : 1;
    });
    told.textContent = `${count} of ${rows.length}`;
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
