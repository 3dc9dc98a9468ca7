/** The style sheet's colours, as a canvas takes them. */

const NAMES = [
  "line", "text", "dim", "prefill", "decode", "mixed", "transfer", "exposed", "own",
];

export const colours = {};

/** To be called when the theme has changed. What a variable is in this theme only a property of an
 * element tells. */
export function readColours() {
  const probe = document.createElement("span");
  document.body.append(probe);
  for (const name of NAMES) {
    probe.style.color = `var(--${name})`;
    colours[name] = getComputedStyle(probe).color;
  }
  probe.remove();
}

/** A canvas's context in CSS pixels, as large as the canvas is shown, cleared. */
export function contextOf(canvas, height = canvas.clientHeight) {
  const width = canvas.clientWidth;
  const scale = window.devicePixelRatio;
  if (canvas.width !== Math.round(width * scale) || canvas.height !== Math.round(height * scale)) {
    canvas.width = Math.round(width * scale);
    canvas.height = Math.round(height * scale);
  }
  const context = canvas.getContext("2d");
  context.setTransform(scale, 0, 0, scale, 0, 0);
  context.clearRect(0, 0, width, height);
  return context;
}
