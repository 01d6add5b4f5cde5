// Finding papers: words, a family, what came of them. What is asked for is kept in the address.
const search = document.getElementById("search");
const family = document.getElementById("family");
const chips = [...document.querySelectorAll(".chip")];
const cards = [...document.querySelectorAll(".card")];
const cells = new Map([...document.querySelectorAll(".cell")].map((cell) => [cell.dataset.slug, cell]));

function show() {
  const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
  const states = chips.filter((chip) => chip.getAttribute("aria-pressed") === "true").map((chip) => chip.dataset.state);
  let found = 0;
  for (const card of cards) {
    const fits =
      words.every((word) => card.dataset.words.includes(word)) &&
      (!family.value || card.closest(".family").dataset.family === family.value) &&
      (!states.length || states.includes(card.dataset.state));
    card.hidden = !fits;
    cells.get(card.dataset.slug)?.classList.toggle("dim", !fits);
    found += fits;
  }
  for (const section of document.querySelectorAll(".family")) section.hidden = !section.querySelector(".card:not([hidden])");
  document.getElementById("count").textContent = `${found} ${found === 1 ? "paper" : "papers"}`;
  document.getElementById("nothing").hidden = found > 0;
  const asked = new URLSearchParams();
  if (search.value) asked.set("q", search.value);
  if (family.value) asked.set("family", family.value);
  for (const state of states) asked.append("state", state);
  const text = asked.toString();
  history.replaceState(null, "", text ? `?${text}` : location.pathname);
}

const asked = new URLSearchParams(location.search);
search.value = asked.get("q") ?? "";
family.value = asked.get("family") ?? "";
for (const chip of chips) {
  chip.setAttribute("aria-pressed", String(asked.getAll("state").includes(chip.dataset.state)));
  chip.addEventListener("click", () => {
    chip.setAttribute("aria-pressed", String(chip.getAttribute("aria-pressed") !== "true"));
    show();
  });
}
search.addEventListener("input", show);
family.addEventListener("change", show);
search.form.addEventListener("submit", (event) => event.preventDefault());
addEventListener("keydown", (event) => {
  if (event.key === "/" && !event.ctrlKey && !event.metaKey && !/INPUT|SELECT|TEXTAREA/.test(document.activeElement.tagName)) {
    event.preventDefault();
    search.focus();
  }
});
if (location.search) show();
