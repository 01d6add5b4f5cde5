// The list of runs: what trains moves, and some can be chosen to be compared.
import { update } from "./page.js";

const form = document.getElementById("chosen");
if (form) {
  const button = document.getElementById("compare");
  const told = document.getElementById("told");
  const count = () => {
    const chosen = form.querySelectorAll("input[name=run]:checked").length;
    button.disabled = chosen < 2;
    told.textContent = chosen < 2 ? "Choose two runs or more." : `${chosen} runs`;
  };
  form.addEventListener("change", count);
  addEventListener("pageshow", count);
  count();
  for (const select of document.querySelectorAll(".tools select")) select.addEventListener("change", () => select.form.requestSubmit());
}

const fresh = document.getElementById("fresh");
const events = new EventSource("/live/runs");
events.addEventListener("runs", (event) => {
  const news = JSON.parse(event.data);
  news.changed.forEach(update);
  const more = news.total - fresh.dataset.total;
  const link = document.createElement("a");
  link.href = location.href;
  link.textContent = "show what there is now";
  fresh.replaceChildren(`${Math.abs(more)} ${Math.abs(more) === 1 ? "run" : "runs"} ${more > 0 ? "more" : "fewer"} than when this page was made: `, link);
  fresh.hidden = more === 0;
});
addEventListener("pagehide", () => events.close());
