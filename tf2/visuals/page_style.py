"""The style sheet of a report: one column, light and dark, from a phone's width up."""

CSS = """
:root {
  color-scheme: light dark;
  --page: #f6f7f9; --card: #ffffff; --text: #1b2430; --quiet: #5d6a79; --line: #dfe4ea;
  --track: #e8ecf1; --accent: #0072b2; --warn: #b34700; --warn-card: #fff4ea;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #12161c; --card: #1b2129; --text: #e6eaf0; --quiet: #9aa7b6; --line: #2e3742;
    --track: #2a323d; --accent: #56b4e9; --warn: #ffb066; --warn-card: #2b2118;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0; background: var(--page); color: var(--text); overflow-wrap: anywhere;
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", sans-serif;
}
main { max-width: 62rem; margin: 0 auto; padding: 1.5rem 1rem 3rem; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0.5rem 0 0.25rem; }
h2 { font-size: 1.15rem; margin: 0 0 0.75rem; }
h3 { font-size: 0.95rem; margin: 1.25rem 0 0.5rem; }
p { margin: 0.5rem 0; }
section {
  background: var(--card); border: 1px solid var(--line); border-radius: 12px;
  padding: 1.1rem 1.2rem; margin-top: 1rem;
}
.quiet { color: var(--quiet); }
.small { font-size: 0.85rem; }
.headline { display: flex; flex-wrap: wrap; align-items: baseline; gap: 0 0.75rem; }
.headline strong { font-size: 2.6rem; line-height: 1.2; color: var(--accent); }
.warning { background: var(--warn-card); border-left: 4px solid var(--warn); border-radius: 6px;
  padding: 0.6rem 0.8rem; }
.bars { display: grid; gap: 0.7rem; margin: 1rem 0; }
.bar-head { display: flex; flex-wrap: wrap; justify-content: space-between; gap: 0 1rem; }
.track { position: relative; height: 1.1rem; border-radius: 4px; background: var(--track); }
.fill { position: absolute; inset: 0 auto 0 0; border-radius: 4px; }
.interval { position: absolute; top: 50%; height: 2px; margin-top: -1px; background: var(--text); }
.interval::before, .interval::after { content: ""; position: absolute; top: -4px; width: 2px;
  height: 10px; background: var(--text); }
.interval::before { left: 0; }
.interval::after { right: 0; }
.majority { position: absolute; top: -3px; bottom: -3px; border-left: 2px dotted var(--text); }
table { width: 100%; border-collapse: collapse; font-size: 0.9rem; }
th, td { text-align: left; vertical-align: top; padding: 0.4rem 0.75rem 0.4rem 0;
  border-bottom: 1px solid var(--line); }
th { color: var(--quiet); font-weight: 600; }
tr:last-child td { border-bottom: 0; }
.number { font-variant-numeric: tabular-nums; }
code, pre { font: 0.85rem/1.5 ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; }
pre { background: var(--track); border-radius: 8px; padding: 0.7rem 0.9rem; margin: 0.6rem 0;
  white-space: pre-wrap; }
figure { margin: 1rem 0 0; }
figure img { display: block; width: auto; max-width: 100%; height: auto; margin: 0 auto;
  background: #ffffff; border-radius: 8px; padding: 0.5rem; border: 1px solid var(--line); }
figcaption { color: var(--quiet); font-size: 0.85rem; margin-top: 0.4rem; text-align: center; }
.examples { display: grid; gap: 0.8rem;
  grid-template-columns: repeat(auto-fill, minmax(7.2rem, 1fr)); }
.example { font-size: 0.8rem; line-height: 1.35; min-width: 0; }
.example img { display: block; width: 100%; aspect-ratio: 1; object-fit: contain;
  border-radius: 8px; background: var(--track); image-rendering: pixelated; }
.example .class { display: block; font-weight: 600; margin-top: 0.3rem; }
.example .path { display: block; color: var(--quiet); white-space: nowrap; overflow: hidden;
  text-overflow: ellipsis; }
.columns { display: grid; gap: 0 1.5rem;
  grid-template-columns: repeat(auto-fill, minmax(min(15.5rem, 100%), 1fr)); }
.wrong { color: var(--warn); }
@media (max-width: 40rem) {
  section { padding: 0.9rem; }
  thead { display: none; }
  table, tbody { display: block; }
  tr { display: block; padding: 0.5rem 0; border-bottom: 1px solid var(--line); }
  tr:last-child { border-bottom: 0; }
  td { display: grid; grid-template-columns: 9.5rem minmax(0, 1fr); border: 0; padding: 0.1rem 0; }
  td:first-child { display: block; font-weight: 600; }
  td:first-child::before { content: none; }
  td::before { content: attr(data-column); color: var(--quiet); }
  td:empty { display: none; }
}
"""
