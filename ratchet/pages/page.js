"use strict";
// Sort a table by a column: the header's button says by which, the cells' data-value how.
for (const button of document.querySelectorAll("th button[data-sort]")) {
  button.addEventListener("click", () => {
    const header = button.closest("th"), table = header.closest("table"), body = table.tBodies[0];
    const down = header.getAttribute("aria-sort") !== "descending";
    for (const other of table.querySelectorAll("th[aria-sort]")) other.removeAttribute("aria-sort");
    header.setAttribute("aria-sort", down ? "descending" : "ascending");
    const value = (row) => row.cells[header.cellIndex].dataset.value ?? row.cells[header.cellIndex].textContent.trim();
    const compare = (a, b) => (isNaN(a) || isNaN(b) ? String(a).localeCompare(b) : a - b);
    body.append(...[...body.rows].sort((a, b) => (down ? -1 : 1) * compare(value(a), value(b))));
  });
}
// Show examples of a cell of the confusion matrix.
const held = document.getElementById("examples");
const shown = document.getElementById("cell");
if (held && shown) {
  const examples = JSON.parse(held.textContent);
  for (const button of document.querySelectorAll(".confusion button")) {
    button.addEventListener("click", () => {
      for (const other of document.querySelectorAll(".confusion button[aria-pressed=true]")) other.setAttribute("aria-pressed", "false");
      button.setAttribute("aria-pressed", "true");
      const title = document.createElement("p");
      title.textContent = button.getAttribute("aria-label");
      const list = document.createElement("div");
      list.className = "pictures";
      for (const each of examples[button.dataset.cell] ?? []) {
        const figure = document.createElement("figure"), image = new Image(), caption = document.createElement("figcaption");
        image.src = each.picture;
        image.alt = `test row ${each.row}`;
        caption.textContent = `row ${each.row}, ${each.share} sure`;
        figure.append(image, caption);
        list.append(figure);
      }
      shown.replaceChildren(title, list);
    });
  }
}
// Show the figures of one kind only.
for (const button of document.querySelectorAll("button[data-show]")) {
  button.addEventListener("click", () => {
    for (const other of document.querySelectorAll("button[data-show]")) other.setAttribute("aria-pressed", String(other === button));
    for (const figure of document.querySelectorAll("figure[data-kind]")) figure.hidden = button.dataset.show !== "" && figure.dataset.kind !== button.dataset.show;
  });
}
