// An agent that acts, as it acts: the picture, what it does, and what its networks say.
const $ = (id) => document.getElementById(id);
const screen = $("screen");
const paint = screen.getContext("2d");
let events = null;
let names = [];
let trace = [];
let drawn = 0;

const number = (x) => (x === null || x === undefined ? "–" : Math.abs(x) >= 1000 ? Math.round(x).toLocaleString("en") : x.toFixed(2));

function stop(words) {
  events?.close();
  events = null;
  $("go").textContent = "Watch";
  if (words) $("state").textContent = words;
}

function start() {
  stop();
  $("problem").hidden = true;
  $("go").textContent = "Stop";
  $("state").textContent = "The agent is being woken: its program is compiled first, which takes some seconds.";
  trace = [];
  const asked = new URLSearchParams(new FormData($("choice")));
  events = new EventSource(`${$("stage").dataset.stream}?${asked}`);
  events.addEventListener("begin", (event) => {
    const told = JSON.parse(event.data);
    names = told.actions;
    $("state").textContent = `${told.env}, lane ${told.lane} (seed ${told.seed}), after ${told.steps.toLocaleString("en")} steps of training`;
  });
  events.addEventListener("step", (event) => step(JSON.parse(event.data)));
  events.addEventListener("problem", (event) => {
    $("problem").textContent = JSON.parse(event.data).words;
    $("problem").hidden = false;
    stop("Nothing is played.");
  });
  events.onerror = () => stop("The stream has ended. Press Watch to begin again."); // it would start another agent
}

async function step(seen) {
  const turn = ++drawn;
  const bytes = Uint8Array.from(atob(seen.picture), (c) => c.charCodeAt(0));
  const picture = await createImageBitmap(new Blob([bytes], { type: seen.kind }));
  if (turn < drawn - 2) return; // it is late
  if (screen.width !== picture.width || screen.height !== picture.height) {
    [screen.width, screen.height] = [picture.width, picture.height];
    screen.style.setProperty("--ratio", picture.width / picture.height);
  }
  paint.drawImage(picture, 0, 0);
  screen.dataset.steps = turn;
  $("step").textContent = seen.step;
  $("return").textContent = number(seen.return);
  $("value").textContent = number(seen.value);
  $("episode").textContent = seen.episode + (seen.last ? 0 : 1);
  act(seen);
  if (seen.value !== undefined && seen.value !== null) remember(seen.value);
}

function act(seen) {
  const place = $("action");
  if (seen.probabilities) {
    $("heading").textContent = "Action probabilities";
    const parts = Array.isArray(seen.probabilities[0]) ? seen.probabilities : [seen.probabilities];
    const chosen = [seen.chosen].flat();
    const rows = parts.flatMap((part, k) => part.map((p, i) => [k, p, i])).filter(([, p]) => parts.length === 1 || p > 0);
    bars(place, rows.map(([k, p, i]) => ({ name: (parts.length > 1 ? `${k}: ` : "") + (names[i] ?? i), from: 0, to: p, text: p.toFixed(2), chosen: chosen[k] === i })));
  } else if (seen.values) {
    $("heading").textContent = "Action values";
    const [low, high] = [Math.min(...seen.values), Math.max(...seen.values)];
    const [base, span] = [low - 0.15 * (high - low || 1), (high - low || 1) * 1.15];
    const best = Array.isArray(seen.chosen) ? seen.values.indexOf(high) : seen.chosen;
    bars(place, seen.values.map((v, i) => ({ name: names[i] ?? i, from: 0, to: (v - base) / span, text: number(v), chosen: i === best })));
  } else if (seen.mean) {
    $("heading").textContent = seen.deviation ? "Action: mean ± deviation" : "Action";
    const chosen = [seen.chosen].flat(Infinity);
    const place01 = (x) => Math.min(Math.max((x + 1) / 2, 0), 1);
    bars(place, seen.mean.map((m, i) => {
      const d = seen.deviation?.[i] ?? 0.02;
      return { name: i, from: place01(m - d), to: place01(m + d), tick: chosen[i] === undefined ? null : place01(chosen[i]), text: number(m), chosen: true };
    }));
  } else {
    $("heading").textContent = "Action";
    place.textContent = seen.action;
  }
}

function bars(place, rows) {
  rows = rows.slice(0, 64);
  while (place.childElementCount > rows.length) place.lastElementChild.remove();
  if (!place.firstElementChild?.classList.contains("bar")) place.replaceChildren();
  while (place.childElementCount < rows.length) {
    const bar = document.createElement("div");
    bar.className = "bar";
    bar.append(document.createElement("span"), document.createElement("span"), document.createElement("b"));
    bar.children[1].className = "track";
    bar.children[1].append(document.createElement("span"), document.createElement("span"));
    bar.children[1].children[0].className = "fill";
    bar.children[1].children[1].className = "tick";
    place.append(bar);
  }
  rows.forEach((row, i) => {
    const bar = place.children[i];
    bar.classList.toggle("chosen", row.chosen);
    bar.children[0].textContent = row.name;
    const [fill, tick] = bar.children[1].children;
    fill.style.left = `${100 * row.from}%`;
    fill.style.width = `${100 * Math.max(row.to - row.from, 0)}%`;
    tick.hidden = row.tick === null || row.tick === undefined;
    if (!tick.hidden) tick.style.left = `${100 * row.tick}%`;
    bar.children[2].textContent = row.text;
  });
}

function remember(value) {
  trace.push(value);
  if (trace.length > 300) trace.shift();
  $("over").hidden = false;
  const svg = $("trace");
  svg.removeAttribute("hidden");
  const [low, high] = [Math.min(...trace), Math.max(...trace)];
  const span = high - low || 1;
  svg.firstElementChild.setAttribute("d", `M${trace.map((v, i) => `${i},${(74 - (68 * (v - low)) / span).toFixed(1)}`).join("L")}`);
}

$("choice").addEventListener("submit", (event) => {
  event.preventDefault();
  events ? stop("Stopped.") : start();
});
for (const select of $("choice").querySelectorAll("select")) select.addEventListener("change", () => events && start());
addEventListener("pagehide", () => events?.close());
