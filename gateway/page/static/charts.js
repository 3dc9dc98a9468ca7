/** Small charts of the last two minutes. */

import { colours, contextOf } from "./colours.js";
import { formatCount, formatSeconds, formatShare, orDash } from "./format.js";

const WINDOW_US = 120e6;
const TOP = 3;

/** Each line: the sample's field, its label, its colour's name. */
const CHARTS = [
  {
    title: "Requests",
    format: formatCount,
    lines: [["running", "run", "decode"], ["waiting", "wait", "transfer"]],
  },
  {
    title: "First token",
    format: formatSeconds,
    lines: [["firstToken", "p50", "prefill"], ["firstTokenTail", "p99", "exposed"]],
  },
  {
    title: "Between tokens",
    format: formatSeconds,
    lines: [["betweenTokens", "p50", "decode"], ["betweenTokensTail", "p99", "exposed"]],
  },
  {
    title: "Tokens/s",
    format: formatCount,
    lines: [["generatedPerS", "out", "decode"], ["promptPerS", "in", "prefill"]],
  },
  { title: "KV pool", format: formatShare, most: 1, lines: [["pool", "used", "transfer"]] },
  {
    title: "Prefix hits",
    format: formatShare,
    most: 1,
    lines: [["prefixHits", "of prompts", "mixed"]],
  },
];

export function makeCharts(parent) {
  return CHARTS.map((chart) => new Chart(parent, chart));
}

class Chart {
  constructor(parent, { title, format, most = 0, lines }) {
    this.format = format;
    this.most = most;
    this.hoverX = null;
    const element = document.createElement("div");
    element.className = "chart";
    const heading = document.createElement("h2");
    heading.textContent = title;
    const header = document.createElement("header");
    header.append(heading);
    this.lines = lines.map(([field, label, colour]) => {
      const value = document.createElement("span");
      value.style.color = `var(--${colour})`;
      header.append(value);
      return { field, label, colour, value };
    });
    this.canvas = document.createElement("canvas");
    this.canvas.setAttribute("role", "img");
    this.canvas.setAttribute("aria-label", title);
    element.append(header, this.canvas);
    parent.append(element);
    this.canvas.addEventListener("pointermove", (event) => { this.hoverX = event.offsetX; });
    this.canvas.addEventListener("pointerleave", () => { this.hoverX = null; });
  }

  draw(samples, nowUs) {
    const context = contextOf(this.canvas);
    const { clientWidth: width, clientHeight: height } = this.canvas;
    const xOf = (at) => width * (1 - (nowUs - at) / WINDOW_US);
    const values = samples.flatMap((sample) => this.lines.map(({ field }) => sample[field] ?? 0));
    const most = this.most || Math.max(...values, 0) || 1;
    context.strokeStyle = colours.line;
    context.strokeRect(0, height - 0.5, width, 0);
    const yOf = (value) => height - 1 - (value / most) * (height - TOP - 1);
    for (const { field, colour } of this.lines) {
      const points = samples
        .filter((sample) => sample[field] !== null)
        .map((sample) => [xOf(sample.at), yOf(sample[field])]);
      plot(context, points, colours[colour], height);
    }
    const shown = this.hoverX === null ? samples.at(-1) : nearest(samples, this.hoverX, xOf);
    if (this.hoverX !== null) mark(context, xOf(shown?.at), height);
    for (const { field, label, value } of this.lines) {
      value.textContent = `${label} ${orDash(shown?.[field], this.format)}`;
    }
  }
}

function plot(context, points, colour, height) {
  if (!points.length) return;
  context.beginPath();
  for (const [x, y] of points) context.lineTo(x, y);
  context.strokeStyle = colour;
  context.lineWidth = 1.5;
  context.stroke();
  context.lineTo(points.at(-1)[0], height);
  context.lineTo(points[0][0], height);
  context.fillStyle = colour;
  context.globalAlpha = 0.12;
  context.fill();
  context.globalAlpha = 1;
  context.lineWidth = 1;
}

function nearest(samples, x, xOf) {
  const distance = (sample) => Math.abs(xOf(sample.at) - x);
  return samples.reduce((best, each) => (distance(each) < distance(best) ? each : best));
}

function mark(context, x, height) {
  context.strokeStyle = colours.dim;
  context.beginPath();
  context.moveTo(x, 0);
  context.lineTo(x, height);
  context.stroke();
}
