/** Which spans are those of the page's own chats.
 *
 * A transfer names its sequence. A step does not: of the prefill worker's it is those that ran
 * while the sequence was transferred, and the one before, whose layers went first; of the decode
 * worker's those between the answer's first and last token. */

import { visible } from "./fleet.js";

// A token is seen here a little after its step.
const TOKEN_LAG_US = 60e3;

export class Lighting {
  #fleet;

  constructor(fleet) {
    this.#fleet = fleet;
  }

  isOwnTransfer(transfer) {
    return this.#own().some((own) => own.sequences.has(transfer.sequence));
  }

  /** Of a worker's steps within a time, those that worked for an own chat. */
  ownSteps(lane, steps) {
    const spells = this.#own().flatMap((own) => this.#spells(own, lane));
    return new Set(spells.flatMap(([start, end]) => visible(steps, start, end)));
  }

  #own() {
    return [...this.#fleet.own.values()];
  }

  /** When a worker worked for a chat: `[startUs, endUs]` each. */
  #spells(own, lane) {
    const spells = [];
    const endUs = own.lastUs ?? Infinity;
    if (lane.worker === own.decode) {
      const isLocal = own.prefill === own.decode;
      const startUs = isLocal ? own.sentUs : own.firstUs;
      if (startUs !== null) spells.push([startUs - (isLocal ? 0 : TOKEN_LAG_US), endUs]);
    }
    if (lane.worker === own.prefill) {
      for (const transfer of visible(lane.transfers, own.sentUs, endUs)) {
        if (own.sequences.has(transfer.sequence)) spells.push(computing(lane, transfer));
      }
    }
    return spells;
  }
}

/** When what was transferred was computed. */
function computing(lane, transfer) {
  const first = lane.steps.findLast((step) => step.start <= transfer.start) ?? transfer;
  return [first.start, Math.max(first.start, transfer.end - transfer.exposed)];
}
