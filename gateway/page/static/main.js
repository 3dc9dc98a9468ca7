/** Puts the page together: the feed comes in, the parts are drawn. */

import { call, serverEvents, setKey } from "./api.js";
import { makeCharts } from "./charts.js";
import { Chat } from "./chat.js";
import { readColours } from "./colours.js";
import { Fleet } from "./fleet.js";
import { Gantt } from "./gantt.js";
import { connectInput } from "./gantt_input.js";
import { Lighting } from "./lighting.js";
import { showFigures, showRequests } from "./panels.js";
import { Viewport } from "./viewport.js";
import { Workers } from "./workers.js";

const RETRY_MS = 1500;
const FORBIDDEN = 403;
const THEME = "tandem-theme";

const byId = (id) => document.getElementById(id);

const fleet = new Fleet();
const viewport = new Viewport(fleet);
const gantt = new Gantt(byId("gantt"), fleet, viewport, new Lighting(fleet));
const charts = makeCharts(byId("charts"));
const workers = new Workers(byId("worker-rows"));
const prefersDark = matchMedia("(prefers-color-scheme: dark)");
const wantsLessMotion = matchMedia("(prefers-reduced-motion: reduce)");

function take(tick) {
  fleet.take(tick);
  const sample = fleet.samples.at(-1);
  showFigures(tick, sample);
  showRequests(tick);
  workers.show(tick.workers);
  showEmpty(tick);
  for (const chart of charts) chart.draw(fleet.samples, tick.now);
  if (wantsLessMotion.matches) gantt.draw();
}

function showEmpty(tick) {
  const hasSteps = [...fleet.lanes.values()].some((lane) => lane.steps.length);
  byId("empty").hidden = hasSteps;
  byId("empty").textContent = tick.workers.length
    ? `Nothing has run. Ask something in the chat, or point a client at ${location.origin}/v1`
    : "No worker has joined yet. `tandem up` starts some.";
}

function animate() {
  if (!viewport.isPaused && !wantsLessMotion.matches) gantt.draw();
  requestAnimationFrame(animate);
}

/** Read the feed, for ever. A tab that nobody sees reads none. */
async function read() {
  for (;;) {
    await untilVisible();
    const reading = new AbortController();
    const hide = () => { if (document.hidden) reading.abort(); };
    document.addEventListener("visibilitychange", hide);
    try {
      const response = await call("/page/events", { signal: reading.signal });
      fleet.reset();
      for await (const data of serverEvents(response)) {
        showConnection("live", "good");
        take(JSON.parse(data));
      }
      showConnection("the gateway is stopping", "bad");
    } catch (error) {
      if (error.name !== "AbortError") {
        showConnection(error.status ? error.message : "no connection", "bad");
      }
      // Another key may be given, but this one will do no better.
      if (error.status === FORBIDDEN) await anotherKey();
    }
    document.removeEventListener("visibilitychange", hide);
    await new Promise((resolve) => { setTimeout(resolve, RETRY_MS); });
  }
}

/** Whoever may not watch is asked for a key that may. */
function anotherKey() {
  byId("key-form").hidden = false;
  return new Promise((resolve) => { addEventListener("key-given", resolve, { once: true }); });
}

async function untilVisible() {
  while (document.hidden) {
    await new Promise((resolve) => {
      document.addEventListener("visibilitychange", resolve, { once: true });
    });
  }
}

function showConnection(text, quality) {
  byId("connection").textContent = text;
  byId("connection").className = `badge ${quality}`;
}

function setTheme(theme) {
  if (theme) document.documentElement.dataset.theme = theme;
  readColours();
  gantt.draw();
}

function toggleTheme() {
  const now = document.documentElement.dataset.theme ?? (prefersDark.matches ? "dark" : "light");
  const theme = now === "dark" ? "light" : "dark";
  localStorage.setItem(THEME, theme);
  setTheme(theme);
}

setTheme(localStorage.getItem(THEME));
byId("theme").addEventListener("click", toggleTheme);
prefersDark.addEventListener("change", () => setTheme(null));
window.addEventListener("resize", () => gantt.draw());
window.addEventListener("key-wanted", () => { byId("key-form").hidden = false; });
byId("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  setKey(byId("key").value);
  byId("key-form").hidden = true;
});

connectInput(gantt, {
  zoomIn: byId("zoom-in"), zoomOut: byId("zoom-out"), pause: byId("pause"), span: byId("span"),
  tip: byId("tip"),
});
new Chat(fleet, {
  messages: byId("messages"), ask: byId("ask"), prompt: byId("prompt"), send: byId("send"),
  maxTokens: byId("max-tokens"), clear: byId("clear"),
});
animate();
read();
