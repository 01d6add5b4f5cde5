// What the pages of papers and runs share: figures, commands that can be copied, choices of metric.
import { figures, chartOf } from "./chart.js";

export function update(row) {
  for (const place of document.querySelectorAll(`[data-run="${CSS.escape(row.id)}"]`)) {
    for (const cell of place.querySelectorAll("[data-field]")) {
      const text = row[cell.dataset.field];
      if (text === undefined || cell.textContent === text) continue;
      cell.textContent = text;
      if (cell.dataset.field === "status") cell.className = `badge status-${text}`;
    }
  }
}

export function prepare() {
  for (const button of document.querySelectorAll("[data-copy]")) {
    button.addEventListener("click", async () => {
      try {
        await navigator.clipboard.writeText(button.dataset.copy);
        button.textContent = "Copied";
      } catch {
        getSelection().selectAllChildren(button.previousElementSibling); // copying is for safe origins only
        button.textContent = "Selected";
      }
      setTimeout(() => (button.textContent = "Copy"), 1600);
    });
  }
  for (const select of document.querySelectorAll("[data-metric-of]")) {
    select.addEventListener("change", () => chartOf(document.getElementById(select.dataset.metricOf)).choose(select.value));
  }
  for (const box of document.querySelectorAll("[data-toggle-same]")) {
    box.addEventListener("change", () => document.getElementById(box.dataset.toggleSame).classList.toggle("hide-same", !box.checked));
  }
  figures({ moved: (rows) => rows.forEach(update) });
}

prepare();
