/** The table of workers, and the orders that are given there. A row stays the same element from tick
 * to tick, so that what is pointed at is not lost. */

import { formatShare, orDash } from "./format.js";
import { Orders } from "./orders.js";

const NUM_CELLS = 8;

export class Workers {
  #body;
  #rows = new Map();

  constructor(body) {
    this.#body = body;
  }

  show(workers) {
    const known = this.#rows;
    this.#rows = new Map(workers.map(({ id }) => [id, known.get(id) ?? new Row()]));
    const rows = [...this.#rows.values()];
    for (const element of [...this.#body.children]) {
      if (!rows.some((row) => row.element === element)) element.remove();
    }
    rows.forEach(({ element }, place) => {
      const there = this.#body.children[place] ?? null;
      if (there !== element) this.#body.insertBefore(element, there);
    });
    for (const worker of workers) this.#rows.get(worker.id).show(worker);
  }
}

class Row {
  #cells = Array.from({ length: NUM_CELLS }, () => document.createElement("td"));
  #dot = document.createElement("span");
  #name = document.createElement("span");
  #meter = document.createElement("meter");
  #used = document.createElement("span");
  #orders = new Orders();

  constructor() {
    this.element = document.createElement("tr");
    this.element.append(...this.#cells, this.#orders.element);
    this.#cells[0].append(this.#dot, this.#name);
    this.#cells[6].append(this.#meter, this.#used);
  }

  show(worker) {
    const [, role, state, device, busy, sequences, , prefixHits] = this.#cells;
    const hits = worker.prompt_tokens ? worker.cached_tokens / worker.prompt_tokens : null;
    this.#dot.className = `dot ${worker.role}`;
    this.#name.textContent = worker.id;
    fill(role, worker.role);
    fill(state, worker.state, worker.state);
    fill(device, worker.device);
    fill(busy, formatShare(worker.busy), "number");
    fill(sequences, `${worker.sequences} / ${worker.places}`, "number");
    this.#meter.value = worker.used_blocks / worker.blocks;
    this.#meter.textContent = formatShare(this.#meter.value);
    this.#used.textContent = `${worker.used_blocks} / ${worker.blocks}`;
    fill(prefixHits, orDash(hits, formatShare), "number");
    this.#orders.show(worker);
  }
}

function fill(cell, text, className = "") {
  cell.textContent = text;
  cell.className = className;
}
