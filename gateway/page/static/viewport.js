/** Which part of the time is seen: it follows the present, or stands still. */

const MIN_SPAN_US = 10e3;
const MAX_SPAN_US = 120e6;
const FIRST_SPAN_US = 4e6;
// The present is drawn a little late, so that what happens at it has been heard of.
const LAG_US = 400e3;
// The share of the width behind the present.
const AHEAD = 0.03;

export class Viewport {
  constructor(fleet) {
    this.fleet = fleet;
    this.spanUs = FIRST_SPAN_US;
    this.endUs = 0;
    this.isPaused = false;
    /** What the axis counts from: the present, as long as it is followed. */
    this.originUs = 0;
  }

  /** The present, as far as it is drawn. */
  get presentUs() {
    return this.fleet.nowUs() - LAG_US;
  }

  get startUs() {
    return this.endUs - this.spanUs;
  }

  follow() {
    if (this.isPaused) return;
    this.originUs = this.presentUs;
    this.endUs = this.originUs + AHEAD * this.spanUs;
  }

  pause() {
    this.isPaused = true;
  }

  resume() {
    this.isPaused = false;
  }

  /** Zoom; what is at `share` of the width stays there, unless the present is followed. */
  zoom(factor, share) {
    const atUs = this.startUs + share * this.spanUs;
    this.spanUs = Math.min(MAX_SPAN_US, Math.max(MIN_SPAN_US, this.spanUs * factor));
    this.endUs = atUs + (1 - share) * this.spanUs;
    this.follow();
  }

  /** Stand still, and move by a share of the width: to the past if it is negative. */
  move(share) {
    this.pause();
    this.endUs = Math.min(this.endUs + share * this.spanUs, this.presentUs + this.spanUs / 2);
  }
}
