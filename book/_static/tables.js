/* Tables with a caption can be sorted by a click on a title, filtered where they are long, and saved as CSV. */
document.addEventListener("readystatechange", () => {
  if (document.readyState !== "interactive") return; // before the theme looks for what is as wide as the page
  const LONG = 8;
  const text = cell => cell.textContent.trim();
  /* The first number of a cell: "1,234 (1 to 2)" sorts as 1234. */
  const number = value => {
    const found = value.replace(/(\d),(?=\d{3})/g, "$1").match(/-?\d+(\.\d+)?(e-?\d+)?/);
    return found ? parseFloat(found[0]) : NaN;
  };
  const numeric = values => values.filter(v => /^[✓\s]*[-+]?\d/.test(v)).length > values.length / 2;
  const quoted = value => (/[",\n]/.test(value) ? `"${value.replaceAll('"', '""')}"` : value);

  function sort(table, place, title) {
    const body = table.tBodies[0];
    const rows = [...body.rows];
    const values = rows.map(row => text(row.cells[place]));
    const down = title.getAttribute("aria-sort") === "ascending";
    const byNumber = numeric(values);
    const last = x => (Number.isNaN(x) ? Infinity : x);
    const order = rows.map((row, i) => [byNumber ? last(number(values[i])) : values[i], row]);
    order.sort(([a], [b]) => (byNumber ? a - b : a.localeCompare(b, undefined, {numeric: true})) * (down ? -1 : 1));
    for (const other of title.parentElement.cells) other.removeAttribute("aria-sort");
    title.setAttribute("aria-sort", down ? "descending" : "ascending");
    body.append(...order.map(([, row]) => row));
  }

  function filter(table, wanted) {
    const words = wanted.toLowerCase().split(/\s+/).filter(Boolean);
    for (const row of table.tBodies[0].rows) {
      const has = text(row).toLowerCase();
      row.hidden = !words.every(word => has.includes(word));
    }
  }

  function save(table, name) {
    const lines = [...table.rows].filter(row => !row.hidden).map(row => [...row.cells].map(c => quoted(text(c))).join(","));
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([lines.join("\n") + "\n"], {type: "text/csv"}));
    link.download = `${name}.csv`;
    link.click();
    URL.revokeObjectURL(link.href);
  }

  /* A table wider than the text takes the margin as well, where there is one; what is wider still says that it scrolls. */
  const over = box => box.scrollWidth > box.clientWidth + 2;
  function widen(table, box, bar) {
    if (!over(box)) return;
    const cell = box.closest(".cell");
    /* the theme folds the list of headings beside its own names of width, and fails on a page that has none */
    const listed = document.querySelector(".bd-sidebar-secondary");
    const width = listed ? (cell ? "tag_full-width" : "full-width") : "over-margin";
    if (!box.closest(".full-width, .tag_full-width")) (cell || box).classList.add(width);
    if (!over(box)) return;
    const more = document.createElement("span");
    more.className = "table-more";
    more.textContent = "more columns: scroll sideways";
    bar.append(more);
    if (table.caption) table.caption.style.width = `${box.clientWidth}px`; // it does not scroll away
  }

  for (const table of document.querySelectorAll("article table[id], article table.edgelib-wide")) {
    for (const cell of table.querySelectorAll("tbody td")) {
      if (/^\S+ \([^()]* to [^()]*\)/.test(text(cell))) cell.classList.add("interval");
      if (text(cell).length > 80) cell.classList.add("long");
    }
    const wide = table.classList.contains("edgelib-wide");
    if (!table.tHead || !table.tBodies.length || !(table.caption || wide)) continue;
    [...table.tHead.rows[0].cells].forEach((title, place) => {
      title.tabIndex = 0;
      title.title = "Sort by this column";
      title.classList.add("sortable");
      title.addEventListener("click", () => sort(table, place, title));
      title.addEventListener("keydown", event => {
        if (event.key === "Enter" || event.key === " ") {
          event.preventDefault();
          sort(table, place, title);
        }
      });
    });
    const bar = document.createElement("div");
    bar.className = "table-tools";
    if (table.tBodies[0].rows.length > LONG) {
      const field = document.createElement("input");
      field.type = "search";
      field.placeholder = "Filter rows: fog w4a8";
      field.setAttribute("aria-label", "Filter the rows of the table below");
      field.addEventListener("input", () => filter(table, field.value));
      bar.append(field);
    }
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = "CSV";
    button.title = "Save the rows that are shown as a CSV file";
    button.addEventListener("click", () => save(table, table.id || "table"));
    bar.append(button);
    const box = table.closest(".pst-scrollable-table-container") || table;
    box.before(bar);
    widen(table, box, bar);
  }
});
