"""The pages' colours and forms: those of the gateway's page."""

from __future__ import annotations

STYLE = """\
:root {
  color-scheme: light dark;
  --ground: light-dark(#f3f5f8, #0d131c);
  --card: light-dark(#ffffff, #151d29);
  --raised: light-dark(#eef1f5, #1e2836);
  --line: light-dark(#dce2ea, #273345);
  --text: light-dark(#17202c, #e4eaf2);
  --dim: light-dark(#5b6878, #91a0b4);
  --blue: light-dark(#2f80d8, #4aa8ff);
  --green: light-dark(#17996a, #3ecf8e);
  --violet: light-dark(#6f63d9, #9a8cff);
  --amber: light-dark(#c98a00, #f0b429);
  --red: light-dark(#d63c3c, #ff6b6b);
  --good: light-dark(#0b7a52, #3ecf8e);
  --bad: light-dark(#c42f2f, #ff6b6b);
  font: 14px/1.45 system-ui, "Segoe UI", "DejaVu Sans", sans-serif;
}
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 1180px; padding: 18px 20px 40px; background: var(--ground);
  color: var(--text); }
h1 { font-size: 21px; margin: 0; }
h2 { font-size: 13px; font-weight: 600; margin: 0 0 6px; }
p { margin: 0; }
.dim, .dim a { color: var(--dim); }
.good { color: var(--good); }
.bad { color: var(--bad); }
.subtitle { margin: 2px 0 14px; color: var(--dim); overflow-wrap: anywhere; }
.card { background: var(--card); border: 1px solid var(--line); border-radius: 8px;
  padding: 10px 14px; min-width: 0; }
.stack { display: grid; gap: 12px; }
.figures { display: grid; grid-template-columns: repeat(6, minmax(0, 1fr)); gap: 12px; }
.figures h2 { color: var(--dim); font-weight: 400; font-size: 12px; margin: 0; }
.figures .value { font-size: 22px; font-weight: 600; font-variant-numeric: tabular-nums;
  white-space: nowrap; }
.figures .value small { font-size: 12px; font-weight: 400; color: var(--dim); }
.figures .note { font-size: 12px; color: var(--dim); }
.halves { display: grid; grid-template-columns: repeat(2, minmax(0, 1fr)); gap: 12px; }
.thirds { display: grid; grid-template-columns: repeat(3, minmax(0, 1fr)); gap: 12px; }
.limit { border-left: 5px solid var(--blue); }
.limit.loud { border-left-color: var(--red); }
.limit b { margin-right: 6px; }
.scroll { overflow-x: auto; }
.scroll + .scroll { margin-top: 12px; }
table { width: 100%; border-collapse: collapse; font-variant-numeric: tabular-nums; }
th { text-align: left; color: var(--dim); font-weight: 400; font-size: 12px;
  padding: 2px 10px 3px 0; }
td { padding: 3px 10px 3px 0; border-top: 1px solid var(--line); }
td.wide { overflow-wrap: anywhere; min-width: 6em; }
.number { text-align: right; white-space: nowrap; }
.number:last-child { padding-right: 0; }
ul.legend { display: flex; flex-wrap: wrap; gap: 2px 14px; list-style: none; margin: 0 0 4px;
  padding: 0; font-size: 12px; color: var(--dim); }
ul.legend li::before { content: ""; display: inline-block; width: 10px; height: 10px;
  border-radius: 2px; margin-right: 5px; vertical-align: -1px; background: currentColor; }
.legend .blue::before { background: var(--blue); }
.legend .green::before { background: var(--green); }
.legend .violet::before { background: var(--violet); }
.legend .amber::before { background: var(--amber); }
.legend .red::before { background: var(--red); }
svg { display: block; width: 100%; height: auto; }
svg text { fill: var(--dim); font-size: 11px; }
svg text.strong { fill: var(--text); }
svg .middle { text-anchor: middle; }
svg .end { text-anchor: end; }
svg .grid { stroke: var(--line); stroke-width: 1; }
svg .curve.blue { stroke: var(--blue); }
svg .curve.green { stroke: var(--green); }
svg .curve.violet { stroke: var(--violet); }
svg .curve.amber { stroke: var(--amber); }
svg .curve.red { stroke: var(--red); }
svg .mark { stroke: var(--red); stroke-width: 1; stroke-dasharray: 4 3; fill: none; }
svg .blue { fill: var(--blue); }
svg .green { fill: var(--green); }
svg .violet { fill: var(--violet); }
svg .amber { fill: var(--amber); }
svg .red { fill: var(--red); }
svg path.curve { fill: none; stroke-width: 2; stroke-linejoin: round; }
svg .dot { opacity: 0.6; }
svg .area { opacity: 0.25; }
svg .range { stroke: var(--dim); stroke-width: 2; }
svg .range.good { stroke: var(--good); }
svg .range.bad { stroke: var(--bad); }
svg circle.good { fill: var(--good); }
svg circle.bad { fill: var(--bad); }
svg circle.even { fill: var(--dim); }
@media (max-width: 900px) {
  .figures { grid-template-columns: repeat(2, minmax(0, 1fr)); }
  .halves, .thirds { grid-template-columns: minmax(0, 1fr); }
}
@media print { body { max-width: none; } .card { break-inside: avoid; } }
"""
