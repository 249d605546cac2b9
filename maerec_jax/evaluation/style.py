"""The style sheet of reports: for wide and narrow screens, light and dark ones, and paper."""

STYLE = """
:root { color-scheme: light dark; --page: #fbfaf8; --card: #ffffff; --ink: #1d2329; --quiet: #5d6873; --rule: #dfe3e6;
  --accent: #2166ac; --heat: #c2410c; --on-heat: #ffffff; --bad: #b42318; --bad-back: #fde3df; --missed-back: #fff0c2; }
@media (prefers-color-scheme: dark) {
  :root { --page: #14171a; --card: #1d2226; --ink: #e6e9ec; --quiet: #9aa5af; --rule: #343b41; --accent: #6cb0f0;
    --heat: #fb8a4b; --on-heat: #14171a; --bad: #ff9b8f; --bad-back: #5a211c; --missed-back: #54430f; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.2rem clamp(0.8rem, 3vw, 2.5rem) 3rem; max-width: 76rem; background: var(--page);
  color: var(--ink); font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
h1 { font-size: 1.6rem; line-height: 1.2; margin: 0.3rem 0 1rem; overflow-wrap: anywhere; }
h2 { font-size: 1.2rem; margin: 2.4rem 0 0.6rem; }
h3 { font-size: 1rem; margin: 1.2rem 0 0.5rem; overflow-wrap: anywhere; }
p { max-width: 46rem; }
.quiet, figcaption, .remarks { color: var(--quiet); font-size: 0.88rem; }
.tiles { display: grid; grid-template-columns: repeat(auto-fill, minmax(9.5rem, 1fr)); gap: 0.7rem; padding: 0;
  list-style: none; }
.tiles li, .card { background: var(--card); border: 1px solid var(--rule); border-radius: 0.6rem;
  padding: 0.7rem 0.9rem; }
.tiles b { display: block; font-size: 1.5rem; line-height: 1.25; font-variant-numeric: tabular-nums; }
.tiles .partial b { font-weight: 400; font-style: italic; }
.tiles span { font-size: 0.83rem; color: var(--quiet); }
dl.about { display: grid; grid-template-columns: minmax(6rem, max-content) 1fr; gap: 0.15rem 1rem; font-size: 0.9rem; }
dl.about dt { color: var(--quiet); }
dl.about dd { margin: 0; overflow-wrap: anywhere; }
.wide { overflow-x: auto; background: var(--card); border: 1px solid var(--rule); border-radius: 0.6rem; }
table { border-collapse: collapse; font-size: 0.9rem; font-variant-numeric: tabular-nums; }
.wide > table { width: 100%; }
th, td { padding: 0.28rem 0.7rem; text-align: right; white-space: nowrap; font-weight: 400; }
thead th { color: var(--quiet); font-size: 0.82rem; }
th:first-child, td.file { text-align: left; white-space: normal; overflow-wrap: anywhere; min-width: 9rem; }
.wide th:first-child { position: sticky; left: 0; background: var(--card); }
tbody { border-top: 1px solid var(--rule); }
tr.average th, tr.average td { font-weight: 700; }
tr.partial th, tr.partial td { font-style: italic; color: var(--quiet); }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(21rem, 100%), 1fr));
  gap: 1rem; align-items: start; }
.charts figure, .charts section { margin: 0; }
.card > h3 { margin-top: 0; }
svg { width: 100%; max-width: 34rem; height: auto; display: block; margin: 0.3rem auto; }
svg text { fill: var(--ink); font-size: 12px; }
svg .end { text-anchor: end; }
svg .middle { text-anchor: middle; }
svg .quiet { fill: var(--quiet); font-size: 11px; }
svg .label { fill: var(--quiet); font-size: 12px; }
svg .mono { font-family: ui-monospace, Consolas, monospace; font-size: 13px; }
svg .count { font-size: 9.5px; }
svg .strong { fill: var(--on-heat); }
svg .bar { fill: var(--accent); fill-opacity: 0.75; }
svg .grid { stroke: var(--rule); }
svg .axis { stroke: var(--quiet); }
svg .whisker { stroke: var(--ink); stroke-width: 1.4; }
svg .ideal { stroke: var(--quiet); stroke-dasharray: 5 4; }
svg .point { fill: var(--accent); }
svg .cell { fill: var(--rule); fill-opacity: 0.35; }
svg .same { fill: var(--rule); }
svg .heat { fill: var(--heat); }
details { margin: 0.4rem 0; }
summary { cursor: pointer; color: var(--quiet); font-size: 0.88rem; }
.lists { display: flex; flex-wrap: wrap; gap: 1rem 2rem; }
.lists table { margin: 0; }
.lists th:first-child { min-width: 0; }
.mono, .text { font-family: ui-monospace, Consolas, monospace; }
.errors { display: grid; grid-template-columns: repeat(auto-fill, minmax(10.5rem, 1fr)); gap: 0.7rem; }
.errors figure { margin: 0; padding: 0.6rem; }
.errors img, .none { display: block; width: 100%; height: 4.6rem; object-fit: contain; background: var(--page);
  border-radius: 0.3rem; }
.none { color: var(--quiet); font-size: 0.8rem; text-align: center; line-height: 4.6rem; }
.errors .text { font-size: 1rem; overflow-wrap: anywhere; white-space: pre-wrap; unicode-bidi: isolate; }
.errors .pair { display: grid; grid-template-columns: max-content 1fr; gap: 0 0.5rem; margin: 0.4rem 0 0.2rem;
  align-items: baseline; }
.errors .pair dt { color: var(--quiet); font-size: 0.75rem; }
.errors .pair dd { margin: 0; }
.errors figcaption { font-size: 0.75rem; overflow-wrap: anywhere; }
mark { color: inherit; border-radius: 0.15rem; background: var(--missed-back); }
.reading mark { background: var(--bad-back); color: var(--bad); }
@media print { body { max-width: none; } .wide { overflow: visible; } }
"""
