"""The page's style sheet: light, dark, narrow and printed."""

STYLE = """\
:root {
  --paper: #fbfaf7; --card: #ffffff; --ink: #1d1f21; --soft: #63676b; --line: #e2dfd8;
  --accent: #1f5fa8; --accent-soft: #c6d8ec; --warm: #b4531a; --warm-soft: #ecd0bd;
  --right: #1b7a3d; --right-bg: #dff2e4; --wrong: #b3261e; --wrong-bg: #fbe1de;
}
@media screen and (prefers-color-scheme: dark) {
  :root {
    --paper: #15171a; --card: #1d2024; --ink: #e6e4df; --soft: #9da2a8; --line: #33373d;
    --accent: #7db4f0; --accent-soft: #2c4763; --warm: #f0a272; --warm-soft: #5c3a26;
    --right: #7fd79b; --right-bg: #1c3d28; --wrong: #ff9a90; --wrong-bg: #4a211e;
  }
}
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", "Noto Sans", "Noto Sans CJK SC", "PingFang SC", "Microsoft YaHei", sans-serif;
  -webkit-text-size-adjust: 100%; }
main { max-width: 1080px; margin: 0 auto; padding: 48px 24px 80px; }
h1 { font-size: 34px; line-height: 1.15; letter-spacing: -0.015em; margin: 0 0 10px; text-wrap: balance; overflow-wrap: anywhere; }
h2 { font-size: 21px; letter-spacing: -0.01em; margin: 0 0 4px; }
section { margin-top: 52px; }
small { font-size: 12px; color: var(--soft); font-weight: 400; }
.lead { font-size: 18px; color: var(--soft); max-width: 46em; margin: 0; overflow-wrap: anywhere; }
.note { color: var(--soft); margin: 0 0 16px; font-size: 14px; max-width: 60em; }
dl { display: grid; grid-template-columns: repeat(auto-fill, minmax(190px, 1fr)); gap: 1px; background: var(--card);
  border: 1px solid var(--line); border-radius: 10px; overflow: hidden; margin: 28px 0 0; }
dl > div { background: var(--card); padding: 10px 14px; box-shadow: 0 0 0 1px var(--line); }
dt { font-size: 12px; color: var(--soft); }
dd { margin: 0; font-weight: 600; font-variant-numeric: tabular-nums; overflow-wrap: anywhere; }

.scroll { overflow-x: auto; border: 1px solid var(--line); border-radius: 10px; background: var(--card); }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
.scroll table { width: 100%; }
.scroll th, .scroll td { padding: 10px 16px; text-align: left; vertical-align: top; border-top: 1px solid var(--line); }
.scroll thead th { border-top: 0; font-size: 14px; vertical-align: bottom; }
.scroll th small, .scores td small { display: block; white-space: nowrap; }
.scores { table-layout: fixed; min-width: 760px; }
.scores thead th { vertical-align: top; }
.scores thead small { white-space: normal; line-height: 1.35; }
.scores thead small.target { color: var(--accent); margin-top: 3px; }
.scores td b { font-weight: 500; font-size: 19px; }
.scores td.best b { font-weight: 750; color: var(--accent); }
.none { color: var(--soft); }
.bar { display: block; height: 4px; border-radius: 2px; background: var(--line); margin-top: 6px; min-width: 60px; }
.bar i { display: block; height: 100%; border-radius: 2px; background: var(--accent); }
.bar.less i { background: var(--warm); }
.scroll .n { text-align: right; white-space: nowrap; }
.scroll .sum td { font-weight: 650; }
.plain th, .plain td { padding: 7px 16px !important; }
.time .wide { width: 55%; }
.time .bar { margin-top: 10px; }

.grid2 { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 440px), 1fr)); gap: 18px; }
figure, .card { margin: 0; background: var(--card); border: 1px solid var(--line); border-radius: 10px; }
figure { padding: 12px 14px 8px; }
figcaption { display: flex; justify-content: space-between; align-items: baseline; gap: 12px; }
svg { display: block; width: 100%; height: auto; }
svg text { font-size: 11px; fill: var(--soft); }
svg .grid { stroke: var(--line); stroke-width: 1; }
svg polyline { fill: none; stroke-linejoin: round; stroke-linecap: round; }
svg .raw { stroke: var(--accent-soft); stroke-width: 1; }
svg .smooth { stroke: var(--accent); stroke-width: 2; }
svg polyline.held { stroke: var(--warm); stroke-width: 1.5; stroke-dasharray: 4 3; }
svg circle.held { fill: var(--warm); }
svg .bin { fill: var(--accent); }
.key { margin-right: 16px; white-space: nowrap; }
.key::before { content: ""; display: inline-block; width: 20px; height: 0; margin-right: 6px; vertical-align: middle; border-top: 2px solid var(--accent); }
.key.raw::before { border-top: 2px solid var(--accent-soft); }
.key.held::before { border-top: 2px dashed var(--warm); }

.card { display: flex; gap: 16px; padding: 14px; }
.card > img, .card > .missing { flex: 0 0 auto; width: 180px; height: 180px; object-fit: contain; border-radius: 6px; align-self: flex-start; }
.card > img { background: #ffffff; }
.missing { border: 1px dashed var(--line); color: var(--soft); display: flex; flex-direction: column; align-items: center; justify-content: center; text-align: center; font-size: 13px; padding: 8px; overflow-wrap: anywhere; }
.card > div:last-child { flex: 1; min-width: 0; }
.card p { margin: 0; }
.card span, .card p { unicode-bidi: isolate; }
.question { font-weight: 600; line-height: 1.35; white-space: pre-line; overflow-wrap: anywhere; }
.tag { font-size: 12px; color: var(--soft); }
.truth { margin: 4px 0 8px !important; overflow-wrap: anywhere; }
.answers { width: 100%; font-size: 14px; }
.answers th { text-align: left; font-weight: 400; color: var(--soft); padding: 3px 10px 3px 0; vertical-align: top; white-space: nowrap; width: 1%; }
.answers td { padding: 3px 0; vertical-align: top; overflow-wrap: anywhere; border-top: 1px solid var(--line); }
.answers th { border-top: 1px solid var(--line); }
.answers td:nth-child(2) { width: 22px; }
.right .mark, .right td:last-child { color: var(--right); }
.wrong .mark, .wrong td:last-child { color: var(--wrong); }
.mark { font-weight: 700; }
.edit { margin-top: 10px !important; overflow-wrap: anywhere; }
.edit small { display: block; }
del, ins { text-decoration: none; border-radius: 3px; padding: 1px 3px; font-weight: 600; }
del { background: var(--wrong-bg); color: var(--wrong); text-decoration: line-through; }
ins { background: var(--right-bg); color: var(--right); }
ul { padding-left: 20px; margin: 8px 0; }

@media (max-width: 520px) {
  main { padding: 28px 14px 48px; }
  h1 { font-size: 27px; }
  .card { flex-direction: column; }
  .card > img, .card > .missing { width: 100%; height: auto; min-height: 120px; max-height: 320px; align-self: center; }
}
@media print {
  :root { --paper: #ffffff; }
  body { font-size: 11pt; -webkit-print-color-adjust: exact; print-color-adjust: exact; }
  main { max-width: none; padding: 0; }
  section { margin-top: 24pt; }
  figure, .card, tr, dl > div { break-inside: avoid; }
  h2, .note { break-after: avoid; }
  .scroll { overflow: visible; }
}
"""
