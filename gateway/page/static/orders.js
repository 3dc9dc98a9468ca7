/** What an operator tells one worker: to drain, which is asked once more, or to serve again. */

import { call } from "./api.js";

const TIMEOUT_S = 30;
// Of the states that a worker can be in.
const SERVES = ["serving", "suspect"];
const IS_OUT = ["draining", "drained"];

export class Orders {
  #worker = null;
  #question = document.createElement("span");
  #drain = button("Drain");
  #keep = button("Keep");
  #undrain = button("Undrain");
  #isAsked = false;
  #error = "";

  constructor() {
    this.element = document.createElement("td");
    this.element.className = "orders";
    this.#question.setAttribute("role", "alert");
    this.element.append(this.#question, this.#drain, this.#keep, this.#undrain);
    this.#drain.addEventListener("click", () => this.#onDrain());
    this.#keep.addEventListener("click", () => this.#ask(false));
    this.#undrain.addEventListener("click", () => this.#give("undrain", {}));
    this.element.addEventListener("keydown", (event) => {
      if (event.key === "Escape") this.#ask(false);
    });
    this.#render();
  }

  show(worker) {
    this.#worker = worker;
    if (!SERVES.includes(worker.state)) this.#isAsked = false;
    this.#render();
  }

  #onDrain() {
    if (!this.#isAsked) this.#ask(true);
    else this.#give("drain", { timeout_s: TIMEOUT_S });
  }

  #ask(isAsked) {
    this.#isAsked = isAsked;
    this.#error = "";
    this.#render();
    (isAsked ? this.#keep : this.#drain).focus();
  }

  async #give(verb, body) {
    this.#isAsked = false;
    this.#error = "";
    this.#setGiven(true);
    try {
      await call(`/admin/workers/${encodeURIComponent(this.#worker.id)}/${verb}`, {
        method: "POST",
        headers: { "Content-Type": "application/json", "X-Tandem-Operator": "page" },
        body: JSON.stringify(body),
      });
    } catch (error) {
      this.#error = error.message;
    }
    this.#setGiven(false);
    this.#render();
  }

  #setGiven(isGiven) {
    for (const each of [this.#drain, this.#keep, this.#undrain]) each.disabled = isGiven;
  }

  #render() {
    const state = this.#worker?.state;
    this.#drain.hidden = !SERVES.includes(state);
    this.#undrain.hidden = !IS_OUT.includes(state);
    this.#keep.hidden = !this.#isAsked;
    const text = this.#isAsked ? this.#asked() : this.#error;
    // A text that is set anew is read out anew.
    if (this.#question.textContent !== text) this.#question.textContent = text;
    this.#question.className = this.#isAsked ? "" : "failed";
  }

  #asked() {
    return this.#worker.needed
      ? `No other ${this.#worker.role} worker serves: new requests would be refused.`
      : `What it does not finish in ${TIMEOUT_S}\u00a0s goes on elsewhere.`;
  }
}

function button(text) {
  const element = document.createElement("button");
  element.type = "button";
  element.textContent = text;
  return element;
}
