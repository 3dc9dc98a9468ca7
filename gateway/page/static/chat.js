/** A chat, whose own requests light up in the lanes. */

import { call, serverEvents } from "./api.js";
import { formatBytes, formatSeconds } from "./format.js";

const PATH = "/v1/chat/completions";
const TEMPERATURE = 0.2;
// The gateway tells the page of requests that are named so.
const NAME_PREFIX = "page-";
// Older ones have left the lanes.
const MAX_OWN = 32;

export class Chat {
  #fleet;
  #elements;
  #history = [];
  #running = null;

  constructor(fleet, elements) {
    this.#fleet = fleet;
    this.#elements = elements;
    const { ask, prompt, clear } = elements;
    ask.addEventListener("submit", (event) => {
      event.preventDefault();
      if (this.#running) this.#running.abort();
      else this.#ask(prompt.value.trim());
    });
    prompt.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" || event.shiftKey || event.isComposing || this.#running) return;
      event.preventDefault();
      ask.requestSubmit();
    });
    clear.addEventListener("click", () => this.#clear());
    this.#clear();
  }

  #clear() {
    this.#running?.abort();
    this.#history = [];
    const hint = document.createElement("p");
    hint.className = "hint";
    hint.textContent = "Ask something, and see your request in the lanes.";
    this.#elements.messages.replaceChildren(hint);
  }

  async #ask(text) {
    if (!text) return;
    this.#elements.messages.querySelector(".hint")?.remove();
    this.#elements.prompt.value = "";
    this.#add("user", text);
    this.#history.push({ role: "user", content: text });
    const answer = this.#add("assistant running", "");
    const history = this.#history;
    this.#setRunning(new AbortController());
    const run = new Run(this.#fleet, answer);
    try {
      await run.stream(history, Number(this.#elements.maxTokens.value), this.#running.signal);
    } catch (error) {
      run.failed(error);
    }
    run.end();
    if (run.text) history.push({ role: "assistant", content: run.text });
    else history.pop();
    this.#setRunning(null);
  }

  #setRunning(controller) {
    this.#running = controller;
    this.#elements.send.textContent = controller ? "Stop" : "Send";
    this.#elements.send.classList.toggle("stop", controller !== null);
  }

  #add(className, text) {
    const message = document.createElement("div");
    message.className = `message ${className}`;
    message.append(document.createElement("span"), document.createElement("footer"));
    message.firstChild.textContent = text;
    this.#elements.messages.append(message);
    message.scrollIntoView({ block: "end" });
    return message;
  }
}

/** One answer as it comes. */
class Run {
  #fleet;
  #message;
  #own;
  #name = NAME_PREFIX + randomName();
  #usage = null;
  #served = null;

  constructor(fleet, message) {
    this.#fleet = fleet;
    this.#message = message;
    this.text = "";
    this.#own = {
      sequences: new Set(),
      prefill: null,
      decode: null,
      sentUs: fleet.nowUs(),
      firstUs: null,
      newestUs: null,
      lastUs: null,
    };
    fleet.own.set(this.#name, this.#own);
    if (fleet.own.size > MAX_OWN) fleet.own.delete(fleet.own.keys().next().value);
  }

  async stream(messages, maxTokens, signal) {
    const response = await call(PATH, {
      method: "POST",
      signal,
      headers: { "Content-Type": "application/json", "X-Request-Id": this.#name },
      body: JSON.stringify({
        model: "default", messages, max_tokens: maxTokens, temperature: TEMPERATURE, stream: true,
        stream_options: { include_usage: true, continuous_usage_stats: true },
      }),
    });
    for await (const data of serverEvents(response)) {
      if (data === "[DONE]") return;
      this.#take(JSON.parse(data));
    }
    throw new Error("the connection ended before the answer did");
  }

  #take(chunk) {
    if (chunk.error) throw new Error(chunk.error.message);
    this.#usage = chunk.usage ?? this.#usage;
    this.#served = chunk.tandem ?? this.#served;
    if (this.#usage?.completion_tokens) {
      this.#own.firstUs ??= this.#fleet.nowUs();
      if (!this.#served) this.#own.newestUs = this.#fleet.nowUs();
    }
    this.text += chunk.choices[0]?.delta.content ?? "";
    this.#message.firstChild.textContent = this.text;
    this.#message.lastChild.textContent = this.#summary();
    this.#message.scrollIntoView({ block: "end" });
  }

  failed(error) {
    if (error.name === "AbortError") {
      this.#message.lastChild.textContent = `${this.#summary()}\nstopped`.trim();
    } else {
      this.#message.classList.add("failed");
      this.#message.lastChild.textContent = error.message;
    }
  }

  end() {
    this.#message.classList.remove("running");
    this.#own.lastUs = this.#own.newestUs ?? this.#fleet.nowUs();
    this.#own.prefill = this.#served?.prefill_worker || this.#own.prefill;
    this.#own.decode = this.#served?.decode_worker || this.#own.decode;
  }

  #summary() {
    const { sentUs, firstUs, newestUs } = this.#own;
    if (firstUs === null) return "";
    const tokens = this.#usage.completion_tokens;
    const decodeS = (newestUs - firstUs) / 1e6;
    const parts = [`${tokens} tokens`, `first after ${formatSeconds((firstUs - sentUs) / 1e6)}`];
    if (tokens > 1 && decodeS > 0) parts.push(`${((tokens - 1) / decodeS).toFixed(1)} tok/s`);
    return [parts.join(", "), this.#way()].filter(Boolean).join("\n");
  }

  /** How it was served. */
  #way() {
    if (!this.#served) return "";
    const { mode, prefill_worker: prefill, decode_worker: decode, kv_bytes: bytes } = this.#served;
    const way = [prefill, decode].filter(Boolean).join(" → ");
    const { prompt_tokens: prompt, prompt_tokens_details: details } = this.#usage;
    const lines = [
      mode === "local" ? `${prefill}, alone` : way,
      `${prompt} prompt tokens, ${details.cached_tokens} of them cached`,
    ];
    if (bytes) lines.push(`${formatBytes(bytes)} of KV moved`);
    return lines.join("\n");
  }
}

/** 128 random bits. (`crypto.randomUUID` is there only over TLS, and on one's own machine.) */
function randomName() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return [...bytes].map((each) => each.toString(16).padStart(2, "0")).join("");
}
