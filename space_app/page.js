// A click on a heading of the table of events sorts it; a second one turns the order round.
document.addEventListener("click", (click) => {
  const heading = click.target.closest("table.events th");
  if (!heading) return;
  const table = heading.closest("table"), body = table.tBodies[0];
  const column = [...heading.parentNode.children].indexOf(heading);
  const falling = heading.getAttribute("aria-sort") === "ascending";
  for (const other of heading.parentNode.children) other.setAttribute("aria-sort", "none");
  heading.setAttribute("aria-sort", falling ? "descending" : "ascending");
  const value = (row) => row.cells[column].dataset.value;
  const compare = (a, b) => (isNaN(value(a)) || isNaN(value(b))
    ? value(a).localeCompare(value(b)) : value(a) - value(b));
  const rows = [...body.rows].sort(compare);
  body.replaceChildren(...(falling ? rows.reverse() : rows));
});
// The link to the card opens it.
document.addEventListener("click", (click) => {
  if (!click.target.closest('a[href="#model-card"]')) return;
  const button = document.querySelector("#model-card button");
  if (button && !button.classList.contains("open")) button.click();
});
