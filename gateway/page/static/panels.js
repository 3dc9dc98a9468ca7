/** Figures and requests: what is text. */

import { formatBytes, formatCount, formatSeconds, formatShare, orDash } from "./format.js";

const STAGES = [
  ["queued", "Waiting"],
  ["prefill", "Prefill"],
  ["transfer", "KV on its way"],
  ["decode", "Decode"],
];
const PLACES = {
  workers: "Workers",
  prefill: "Prefill",
  transfers: "Transfers",
  decode: "Decode",
  clients: "Clients",
  none: "Idle",
};
// A chip is as wide as its request is long.
const CHIP_WIDTH = 5;
const MAX_CHIP_WIDTH = 34;
const TOKENS_PER_PIXEL = 40;

const byId = (id) => document.getElementById(id);

export function showFigures(tick, sample) {
  byId("model").textContent = tick.model ? `${tick.model}, ${topology(tick.workers)}` : "";
  byId("tokens-per-s").textContent = `${orDash(sample.generatedPerS, formatCount)} tok/s`;
  byId("first-token").textContent = orDash(sample.firstToken, formatSeconds);
  byId("between-tokens").textContent = orDash(sample.betweenTokens, formatSeconds);
  byId("hidden").textContent = orDash(tick.pipeline.hidden, formatShare);
  byId("efficiency").textContent = orDash(tick.pipeline.efficiency, formatShare);
  const { where, text } = tick.bottleneck;
  byId("bottleneck").textContent = `${PLACES[where]}: ${text}`;
  byId("bottleneck").title = text;
}

function topology(workers) {
  const count = (role) => workers.filter((each) => each.role === role).length;
  const [prefill, decode] = [count("prefill"), count("decode")];
  return prefill ? `${prefill}p${decode}d` : `colocated:${decode}`;
}

export function showRequests({ requests, totals }) {
  const { finished, failed, refused, kv_bytes: bytes, preemptions, recoveries } = totals;
  const parts = [`${formatCount(finished)} done`, `${formatBytes(bytes)} of KV moved`];
  for (const [count, what] of [[failed, "failed"], [refused, "refused"],
    [preemptions, "preempted"], [recoveries, "recovered"]]) {
    if (count) parts.push(`${formatCount(count)} ${what}`);
  }
  byId("totals").textContent = parts.join(" · ");
  const stages = STAGES.map(([stage, title]) => stageOf(stage, title, requests));
  byId("stages").replaceChildren(...stages);
}

function stageOf(stage, title, { counts, shown }) {
  const element = made("div", "stage");
  const header = made("header");
  header.append(title, made("b", "", formatCount(counts[stage])));
  const chips = made("div", "chips");
  chips.append(...shown.filter((each) => each.stage === stage).map(chipOf));
  element.append(header, chips);
  return element;
}

function chipOf(request) {
  const { stage, prompt, tokens, prefill, decode, name } = request;
  const chip = made("span", `chip ${stage}${name ? " own" : ""}`);
  const width = CHIP_WIDTH + (prompt + tokens) / TOKENS_PER_PIXEL;
  chip.style.width = `${Math.min(MAX_CHIP_WIDTH, width)}px`;
  const way = [...new Set([prefill, decode])].filter(Boolean).join(" to ");
  chip.title = `${prompt} prompt tokens, ${tokens} generated${way && `\n${way}`}`;
  return chip;
}

function made(tag, className = "", text = "") {
  const element = document.createElement(tag);
  element.className = className;
  element.textContent = text;
  return element;
}
