/** What the page knows: the lanes of the last minutes, the newest tick, and its own chats.
 *
 * Times are microseconds on the gateway's clock. */

const STEP = 1;
const FRAME_RECEIVED = 3;
const TRANSFER = 4;

const KEPT_US = 120e6;
const MAX_SPANS = 20_000;
const MAX_SAMPLES = 480;
const MAX_DESTINATIONS = 5_000;
// Ticks that a rate is taken over, and a share of what comes seldom.
const RATE_TICKS = 8;
const SHARE_TICKS = 40;

export class Fleet {
  constructor() {
    this.lanes = new Map();
    this.samples = [];
    this.tick = null;
    /** The chat's requests by name: when each was sent, its first and its last token came, its
     * workers and its sequences. */
    this.own = new Map();
    this.destinations = new Map();
    this.clockOffsetUs = null;
  }

  /** The gateway's time now; our own while nothing has come. A tick shows how far its clock is from
   * ours, and is always late: so the one that was least late counts. */
  nowUs() {
    return performance.now() * 1000 + (this.clockOffsetUs ?? 0);
  }

  /** After a break: another gateway has another clock, and what was there is sent again. */
  reset() {
    this.lanes.clear();
    this.samples = [];
    this.destinations.clear();
    this.tick = null;
    this.clockOffsetUs = null;
  }

  take(tick) {
    this.tick = tick;
    const offsetUs = tick.now - performance.now() * 1000;
    this.clockOffsetUs = Math.max(this.clockOffsetUs ?? -Infinity, offsetUs);
    for (const worker of tick.workers) this.lane(worker.id).role = worker.role;
    for (const [worker, rows] of Object.entries(tick.lanes)) this.#takeRows(worker, rows);
    for (const request of tick.requests.shown) this.#takeRequest(request);
    this.#sample(tick);
    this.#forget(tick.now - KEPT_US);
  }

  lane(worker) {
    if (!this.lanes.has(worker)) {
      this.lanes.set(worker, { worker, role: "", steps: [], transfers: [] });
    }
    return this.lanes.get(worker);
  }

  /** Lanes of a role, in order. One whose worker is gone stays until its spans are old. */
  lanesOf(role) {
    return [...this.lanes.values()]
      .filter((lane) => lane.role === role)
      .sort((a, b) => a.worker.localeCompare(b.worker, undefined, { numeric: true }));
  }

  isPresent(worker) {
    return this.tick.workers.some((each) => each.id === worker);
  }

  #takeRows(worker, rows) {
    const lane = this.lane(worker);
    for (const [kind, start, duration, ...rest] of rows) {
      const span = { worker, start, end: start + duration };
      if (kind === STEP) {
        const [seqs, tokens, promptTokens, number] = rest;
        lane.steps.push({ ...span, seqs, tokens, promptTokens, number });
      } else if (kind === TRANSFER) {
        const [sequence, bytes, exposed] = rest;
        lane.transfers.push({ ...span, sequence, bytes, exposed });
      } else if (kind === FRAME_RECEIVED) {
        this.destinations.set(rest[0], worker);
      }
    }
  }

  #takeRequest(request) {
    const own = this.own.get(request.name);
    if (!own) return;
    own.sequences.add(request.sequence);
    own.prefill = request.prefill || own.prefill;
    own.decode = request.decode || own.decode;
  }

  #sample(tick) {
    const { totals, queue, requests, workers } = tick;
    const pools = workers.filter((each) => each.role === "decode");
    const used = pools.reduce((sum, each) => sum + each.used_blocks, 0);
    const blocks = pools.reduce((sum, each) => sum + each.blocks, 0);
    const { counts } = requests;
    this.samples.push({
      at: tick.now,
      totals,
      waiting: queue[0],
      running: counts.prefill + counts.transfer + counts.decode,
      firstToken: tick.first_token_s[0],
      firstTokenTail: tick.first_token_s[1],
      betweenTokens: tick.between_tokens_s[0],
      betweenTokensTail: tick.between_tokens_s[1],
      pool: blocks ? used / blocks : null,
      generatedPerS: this.#rate(totals, tick.now, "generated_tokens"),
      promptPerS: this.#rate(totals, tick.now, "prompt_tokens"),
      prefixHits: this.#prefixHits(totals),
    });
    if (this.samples.length > MAX_SAMPLES) this.samples.shift();
  }

  #rate(totals, now, name) {
    const before = this.samples.at(-RATE_TICKS) ?? this.samples[0];
    return before ? (totals[name] - before.totals[name]) / ((now - before.at) / 1e6) : null;
  }

  #prefixHits(totals) {
    const before = this.samples.at(-SHARE_TICKS) ?? this.samples[0];
    const prompts = before ? totals.prompt_tokens - before.totals.prompt_tokens : 0;
    return prompts ? (totals.cached_tokens - before.totals.cached_tokens) / prompts : null;
  }

  #forget(beforeUs) {
    for (const lane of this.lanes.values()) {
      lane.steps = newest(lane.steps, beforeUs);
      lane.transfers = newest(lane.transfers, beforeUs);
      const isEmpty = !lane.steps.length && !lane.transfers.length;
      if (isEmpty && !this.isPresent(lane.worker)) this.lanes.delete(lane.worker);
    }
    for (const sequence of this.destinations.keys()) {
      if (this.destinations.size <= MAX_DESTINATIONS) break;
      this.destinations.delete(sequence);
    }
  }
}

function newest(spans, beforeUs) {
  if (!spans.length || (spans[0].end >= beforeUs && spans.length <= MAX_SPANS)) return spans;
  return spans.filter((span) => span.end >= beforeUs).slice(-MAX_SPANS);
}

/** The spans that are seen within a time, of spans in the order of their ends. */
export function visible(spans, startUs, endUs) {
  let low = 0;
  let high = spans.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (spans[middle].end < startUs) low = middle + 1;
    else high = middle;
  }
  const found = [];
  for (let i = low; i < spans.length; i += 1) {
    if (spans[i].start <= endUs) found.push(spans[i]);
  }
  return found;
}
