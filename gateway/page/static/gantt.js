/** The lanes, drawn: prefill on top, decode below, and between them the KV on its way down. */

import { colours, contextOf } from "./colours.js";
import { visible } from "./fleet.js";
import { formatSeconds } from "./format.js";

const GUTTER = 104;
const AXIS = 20;
const LANE = 30;
const GAP = 5;
const BAND = 58;
const FONT = '11px system-ui, "DejaVu Sans", sans-serif';
// Ticks of the axis are about so far apart.
const TICK_WIDTH = 110;
const MIN_LABEL = 16;

export class Gantt {
  constructor(canvas, fleet, viewport, lighting) {
    this.canvas = canvas;
    this.fleet = fleet;
    this.viewport = viewport;
    this.lighting = lighting;
    /** What was drawn, to be found again: `{x, y, width, height, span}`. */
    this.drawn = [];
  }

  /** Pixels of the time's axis. */
  get width() {
    return this.canvas.clientWidth - GUTTER;
  }

  /** The share of the time's axis at a pixel. */
  shareAt(x) {
    return Math.min(1, Math.max(0, (x - GUTTER) / this.width));
  }

  draw() {
    if (!this.fleet.tick) return;
    this.viewport.follow();
    const rows = this.#rows();
    this.canvas.style.height = `${rows.height}px`;
    const context = contextOf(this.canvas, rows.height);
    context.font = FONT;
    context.textBaseline = "middle";
    this.drawn = [];
    this.#drawAxis(context, rows.height);
    // What was heard of already is seen as it comes to the present.
    context.save();
    context.beginPath();
    const right = Math.min(this.canvas.clientWidth, this.#x(this.viewport.presentUs));
    context.rect(GUTTER, 0, right - GUTTER, rows.height);
    context.clip();
    for (const row of rows.lanes) this.#drawSteps(context, row);
    for (const row of rows.lanes) this.#drawTransfers(context, row, rows);
    context.restore();
    this.#drawPresent(context, rows.height);
    this.#drawLabels(context, rows);
  }

  /** The span at a pixel, the one that was drawn last. */
  at(x, y) {
    return this.drawn.findLast((each) => each.contains(x, y))?.span ?? null;
  }

  #rows() {
    const prefill = this.fleet.lanesOf("prefill");
    const decode = this.fleet.lanesOf("decode");
    const lanes = [];
    let y = AXIS + GAP;
    const add = (lane) => {
      lanes.push({ lane, y });
      y += LANE + GAP;
    };
    prefill.forEach(add);
    const bandTop = y - GAP;
    if (prefill.length && decode.length) y += BAND;
    const bandBottom = y;
    decode.forEach(add);
    return { lanes, bandTop, bandBottom, height: Math.max(y + GAP, 130) };
  }

  #x(us) {
    return GUTTER + ((us - this.viewport.startUs) / this.viewport.spanUs) * this.width;
  }

  #drawAxis(context, height) {
    const { startUs, endUs, spanUs, originUs } = this.viewport;
    const tickUs = niceTick((spanUs * TICK_WIDTH) / this.width);
    const first = Math.ceil((startUs - originUs) / tickUs);
    const last = Math.floor((endUs - originUs) / tickUs);
    context.fillStyle = colours.dim;
    context.strokeStyle = colours.line;
    context.textAlign = "center";
    for (let number = first; number <= last; number += 1) {
      const x = Math.round(this.#x(originUs + number * tickUs)) + 0.5;
      context.beginPath();
      context.moveTo(x, AXIS);
      context.lineTo(x, height);
      context.stroke();
      const label = this.#tickLabel(number * tickUs);
      const room = this.canvas.clientWidth - context.measureText(label).width / 2;
      if (x > GUTTER + 20) context.fillText(label, Math.min(x, room), AXIS / 2);
    }
  }

  #tickLabel(us) {
    if (us === 0) return this.viewport.isPaused ? "paused" : "now";
    return `${us < 0 ? "−" : "+"}${formatSeconds(Math.abs(us) / 1e6)}`;
  }

  #drawSteps(context, { lane, y }) {
    const steps = visible(lane.steps, this.viewport.startUs, this.viewport.endUs);
    const own = this.lighting.ownSteps(lane, steps);
    const most = Math.max(1, ...steps.map((step) => step.seqs));
    context.globalAlpha = 1;
    let rightmost = -Infinity;
    for (const step of steps) {
      const left = this.#x(step.start);
      const right = this.#x(step.end);
      // Of steps that are narrower than a pixel one is as good as another, but for an own one.
      if (right < rightmost && !own.has(step)) continue;
      rightmost = Math.max(right, left + 1);
      const width = Math.max(1, right - left - (right - left > 3 ? 1 : 0));
      context.fillStyle = stepColour(step);
      context.globalAlpha = 0.45 + 0.55 * (step.seqs / most);
      block(context, left, y, width, LANE);
      context.globalAlpha = 1;
      if (own.has(step)) {
        context.fillStyle = colours.own;
        block(context, left, y + LANE - 9, width, 9);
      }
      this.#labelStep(context, step, left, width, y);
      this.#remember(step, left, y, Math.max(4, width), LANE);
    }
  }

  #labelStep(context, step, left, width, y) {
    const from = Math.max(left, GUTTER);
    const room = left + width - from;
    if (room < MIN_LABEL) return;
    const text = stepLabels(step).find((each) => context.measureText(each).width + 2 <= room);
    if (!text) return;
    context.fillStyle = "#fff";
    context.textAlign = "center";
    context.shadowColor = "#0009";
    context.shadowBlur = 3;
    context.fillText(text, from + room / 2, y + LANE / 2);
    context.shadowBlur = 0;
  }

  /** A transfer goes down as time goes on; what of it nothing hid is the last part of its way. */
  #drawTransfers(context, { lane }, { lanes, bandTop, bandBottom }) {
    const bottoms = new Map(lanes.map((row) => [row.lane.worker, row.y]));
    for (const transfer of visible(lane.transfers, this.viewport.startUs, this.viewport.endUs)) {
      const isOwn = this.lighting.isOwnTransfer(transfer);
      const left = this.#x(transfer.start);
      const right = Math.max(left + 1, this.#x(transfer.end));
      const duration = Math.max(1, transfer.end - transfer.start);
      const turn = right - ((right - left) * transfer.exposed) / duration;
      const yAt = (x) => bandTop + ((bandBottom - bandTop) * (x - left)) / (right - left);
      context.globalAlpha = isOwn ? 1 : 0.75;
      if (isOwn) {
        context.lineWidth = 7;
        line(context, colours.own, left, bandTop, right, bandBottom);
      }
      context.lineWidth = 2;
      line(context, colours.transfer, left, bandTop, turn, yAt(turn));
      if (transfer.exposed) line(context, colours.exposed, turn, yAt(turn), right, bandBottom);
      const target = bottoms.get(this.fleet.destinations.get(transfer.sequence));
      if (target !== undefined) {
        context.fillStyle = isOwn ? colours.own : colours.transfer;
        triangle(context, right, target);
      }
      this.#rememberSlope(transfer, left, right, bandTop, bandBottom);
    }
    context.lineWidth = 1;
    context.globalAlpha = 1;
  }

  #drawPresent(context, height) {
    const x = this.#x(this.viewport.presentUs);
    if (x < GUTTER) return;
    context.setLineDash([3, 3]);
    line(context, colours.dim, x, AXIS - 4, x, height);
    context.setLineDash([]);
  }

  #drawLabels(context, { lanes, bandTop, bandBottom }) {
    context.textAlign = "left";
    for (const { lane, y } of lanes) {
      context.globalAlpha = this.fleet.isPresent(lane.worker) ? 1 : 0.45;
      context.fillStyle = colours[lane.role];
      context.fillRect(0, y, 3, LANE);
      context.fillStyle = colours.text;
      context.fillText(shortened(context, lane.worker, GUTTER - 18), 10, y + LANE / 2);
    }
    context.globalAlpha = 1;
    if (bandBottom - bandTop > GAP) {
      context.fillStyle = colours.dim;
      context.fillText("KV transfers", 10, (bandTop + bandBottom) / 2);
    }
  }

  #remember(span, left, top, width, height) {
    const contains = (x, y) => x >= left && x <= left + width && y >= top && y <= top + height;
    this.drawn.push({ span, contains });
  }

  #rememberSlope(span, left, right, top, bottom) {
    const contains = (x, y) => {
      if (y < top || y > bottom) return false;
      return Math.abs(x - (left + ((right - left) * (y - top)) / (bottom - top))) < 5;
    };
    this.drawn.push({ span, contains });
  }
}

function stepColour(step) {
  if (!step.promptTokens) return colours.decode;
  return step.promptTokens === step.tokens ? colours.prefill : colours.mixed;
}

/** The longest that fits is shown: prompt tokens, and the batch's size. */
function stepLabels({ promptTokens, seqs }) {
  const batch = `×${seqs}`;
  if (!promptTokens) return [batch];
  return [`${promptTokens} tokens ${batch}`, `${promptTokens} ${batch}`, `${promptTokens}`];
}

function block(context, x, y, width, height) {
  if (width < 6) {
    context.fillRect(x, y, width, height);
    return;
  }
  context.beginPath();
  context.roundRect(x, y, width, height, 3);
  context.fill();
}

function line(context, colour, fromX, fromY, toX, toY) {
  context.strokeStyle = colour;
  context.beginPath();
  context.moveTo(fromX, fromY);
  context.lineTo(toX, toY);
  context.stroke();
}

/** Points down at where a transfer ends. */
function triangle(context, x, y) {
  context.beginPath();
  context.moveTo(x - 4, y - 5);
  context.lineTo(x + 4, y - 5);
  context.lineTo(x, y);
  context.fill();
}

function shortened(context, text, width) {
  if (context.measureText(text).width <= width) return text;
  let length = text.length;
  while (length > 1 && context.measureText(`…${text.slice(-length)}`).width > width) length -= 1;
  return `…${text.slice(-length)}`;
}

/** The least of 1, 2, 5, 10, 20 ... that is at least so much. */
function niceTick(us) {
  const power = 10 ** Math.floor(Math.log10(us));
  return power * [1, 2, 5, 10].find((each) => each * power >= us);
}
