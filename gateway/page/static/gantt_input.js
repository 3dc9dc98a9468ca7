/** Moving about in the lanes, with a mouse or a keyboard, and looking at one span. */

import { formatBytes, formatSeconds, formatShare } from "./format.js";

const ZOOM_STEP = 1.25;
const MOVE_STEP = 0.1;
const WHEEL_ZOOM = 0.0015;
const TIP_OFFSET = 14;

export function connectInput(gantt, { zoomIn, zoomOut, pause, span, tip }) {
  const { canvas, viewport, fleet } = gantt;

  function show() {
    pause.textContent = viewport.isPaused ? "Go on" : "Pause";
    pause.setAttribute("aria-pressed", String(viewport.isPaused));
    span.textContent = `${formatSeconds(viewport.spanUs / 1e6)} across`;
    gantt.draw();
  }
  function toggle() {
    if (viewport.isPaused) viewport.resume();
    else viewport.pause();
    show();
  }
  function zoom(factor, share = 0.5) {
    viewport.zoom(factor, share);
    show();
  }
  function move(share) {
    viewport.move(share);
    show();
  }

  pause.addEventListener("click", toggle);
  zoomIn.addEventListener("click", () => zoom(1 / ZOOM_STEP));
  zoomOut.addEventListener("click", () => zoom(ZOOM_STEP));
  canvas.addEventListener("wheel", (event) => {
    event.preventDefault();
    if (Math.abs(event.deltaX) > Math.abs(event.deltaY)) move(event.deltaX / gantt.width);
    else zoom(Math.exp(event.deltaY * WHEEL_ZOOM), gantt.shareAt(event.offsetX));
  }, { passive: false });

  const keys = {
    " ": toggle,
    "+": () => zoom(1 / ZOOM_STEP),
    "-": () => zoom(ZOOM_STEP),
    ArrowLeft: () => move(-MOVE_STEP),
    ArrowRight: () => move(MOVE_STEP),
    End: () => { viewport.resume(); show(); },
  };
  canvas.addEventListener("keydown", (event) => {
    const act = keys[event.key];
    if (!act || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    act();
  });

  let isDragged = false;
  canvas.addEventListener("pointerdown", (event) => {
    isDragged = true;
    canvas.setPointerCapture(event.pointerId);
    canvas.classList.add("dragged");
  });
  canvas.addEventListener("pointermove", (event) => {
    if (isDragged && event.movementX) move(-event.movementX / gantt.width);
    const found = isDragged ? null : gantt.at(event.offsetX, event.offsetY);
    tip.hidden = found === null;
    if (found === null) return;
    tip.textContent = describe(found, fleet);
    const left = Math.min(event.clientX + TIP_OFFSET, innerWidth - tip.offsetWidth);
    const top = Math.min(event.clientY + TIP_OFFSET, innerHeight - tip.offsetHeight);
    tip.style.left = `${left}px`;
    tip.style.top = `${top}px`;
  });
  for (const name of ["pointerup", "pointercancel"]) {
    canvas.addEventListener(name, () => {
      isDragged = false;
      canvas.classList.remove("dragged");
    });
  }
  canvas.addEventListener("pointerleave", () => { tip.hidden = true; });
  show();
}

function describe(span, fleet) {
  const seconds = (span.end - span.start) / 1e6;
  if (span.sequence !== undefined) {
    const to = fleet.destinations.get(span.sequence) ?? "a decode worker";
    const hidden = 1 - span.exposed / Math.max(1, span.end - span.start);
    return [
      `KV transfer, ${span.worker} to ${to}`,
      `${formatBytes(span.bytes)} in ${formatSeconds(seconds)}`,
      `${formatShare(hidden)} hidden behind computing`,
    ].join("\n");
  }
  const generated = span.tokens - span.promptTokens;
  const parts = [`${span.seqs} ${span.seqs === 1 ? "sequence" : "sequences"}`];
  if (span.promptTokens) parts.push(`${span.promptTokens} prompt tokens`);
  if (generated) parts.push(`${generated} tokens`);
  return `Step ${span.number} of ${span.worker}\n${parts.join(", ")}\n${formatSeconds(seconds)}`;
}
