"""How the page looks: fonts of the visitor's machine only, light and dark, from phones to desktops."""

from typing import Any
from urllib.parse import quote

HEADER = """
<header><h1>{title}</h1>
<p>A MAERec recogniser in JAX reads the words in a picture, and shows how sure it is and where it looked.</p></header>
"""

ICON = (
    '<path d="M4 8V5a1 1 0 0 1 1-1h3M16 4h3a1 1 0 0 1 1 1v3M20 16v3a1 1 0 0 1-1 1h-3M8 20H5a1 1 0 0 1-1-1v-3M8 9h8M12 '
    '9v7"/>'
)
"""A letter in a viewfinder, as paths of an SVG of 24 by 24."""

HEAD = (
    "<link rel='icon' href='data:image/svg+xml,"
    + quote(
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 24 24" fill="none" stroke="#4f46e5" stroke-width="2" '
        f'stroke-linecap="round" stroke-linejoin="round">{ICON}</svg>'
    )
    + "'>"
)

_SANS = ["system-ui", "-apple-system", "Segoe UI", "Roboto", "Noto Sans", "sans-serif"]
_MONO = ["ui-monospace", "SFMono-Regular", "Menlo", "DejaVu Sans Mono", "monospace"]


def theme() -> Any:
    """Gradio's plain theme with the fonts of the visitor's machine: its own ones come from another host."""
    import gradio as gr

    return gr.themes.Base(primary_hue="indigo", neutral_hue="slate", font=_SANS, font_mono=_MONO).set(
        body_background_fill="#f6f7f9",
        body_background_fill_dark="#0f1217",
        block_background_fill="#ffffff",
        block_background_fill_dark="#181c23",
        block_border_color="#e3e6ec",
        block_border_color_dark="#2a303a",
        block_shadow="none",
        block_shadow_dark="none",
        block_radius="12px",
        input_background_fill="#f0f2f6",
        input_background_fill_dark="#20252e",
    )


CSS = """
:root { --low: #d9730d; --high: #3538cd; --line: #e3e6ec; --card: #ffffff; --soft: #f0f2f6; --quiet: #5b6472;
  --mark: #4f46e5; --pill: #e6e9ef; --picked: #ffffff; }
.dark { --low: #f59e4b; --high: #8b93ff; --line: #2a303a; --card: #181c23; --soft: #20252e; --quiet: #9aa4b2;
  --mark: #8b93ff; --pill: #181c23; --picked: #343b48; }
.gradio-container { padding: 0 !important; }
.gradio-container .main { max-width: 1160px; margin: 0 auto; padding: 0 24px 48px !important; }
.gradio-container .html-container { padding: 0 !important; }
footer { display: none !important; }
#header { padding: 30px 0 8px; overflow: visible; }
#header h1 { font-size: 26px; line-height: 1.2; font-weight: 650; letter-spacing: -.01em; margin: 0; }
#header p { margin: 6px 0 0; color: var(--quiet); font-size: 15px; }

#layout { display: grid !important; grid-template-columns: minmax(0, 1.08fr) minmax(0, 1fr); gap: 14px 24px;
  grid-template-areas: "mode mode" "picture results" "more results"; grid-template-rows: auto auto 1fr;
  align-items: start; }
#mode { grid-area: mode; } #picture { grid-area: picture; } #results { grid-area: results; } #more { grid-area: more; }
#results { background: var(--card); border: 1px solid var(--line); border-radius: 12px; padding: 20px; gap: 4px;
  min-height: 120px; min-width: 0; }
#more { gap: 18px; min-width: 0; }
#picture, #reading, #detail, #save, #examples { min-width: 0; padding: 0; overflow: visible; }

#mode { border: 0; padding: 0; background: none; width: fit-content; }
#mode .wrap:not([data-testid]), .choice .wrap:not([data-testid]) { display: inline-flex; gap: 3px; padding: 3px;
  border-radius: 10px; background: var(--pill); flex-wrap: nowrap; }
#mode label, .choice label { border: 0 !important; box-shadow: none !important; background: none; padding: 7px 16px;
  border-radius: 8px; color: var(--quiet); font-size: 14px; cursor: pointer; }
#mode label.selected, .choice label.selected { background: var(--picked); color: var(--body-text-color);
  box-shadow: 0 1px 3px rgb(0 0 0 / .16) !important; }
#mode label span, .choice label span { margin: 0; }
#mode input, .choice input { position: absolute; opacity: 0; width: 0; height: 0; margin: 0; }
#mode label:focus-within:has(:focus-visible), .choice label:focus-within:has(:focus-visible) {
  outline: 2px solid var(--mark); }

.drop { display: flex; flex-direction: column; align-items: center; justify-content: center; gap: 4px;
  min-height: 300px;
  padding: 24px; text-align: center; border: 1.5px dashed color-mix(in oklab, var(--quiet) 55%, transparent);
  border-radius: 12px; background: var(--card); cursor: pointer; transition: border-color .15s, background .15s; }
.drop:hover, .drop:focus-visible, .dragging .drop { border-color: var(--mark); outline: none;
  background: color-mix(in oklab, var(--mark) 6%, var(--card)); }
.drop strong { font-size: 17px; font-weight: 600; } .drop span { color: var(--quiet); }
.drop small { color: var(--quiet); font-size: 12.5px; margin-top: 10px; }
.glyph { width: 44px; height: 44px; fill: none; stroke: var(--mark); stroke-width: 1.5; stroke-linecap: round;
  stroke-linejoin: round; margin-bottom: 8px; }
.uploading .drop, .uploading .stage { opacity: .5; pointer-events: none; }

.stage { margin: 0; border: 1px solid var(--line); border-radius: 12px; background: var(--card); overflow: hidden; }
.dragging .stage { border-color: var(--mark); box-shadow: 0 0 0 3px color-mix(in oklab, var(--mark) 25%, transparent); }
.mat.loose { padding: 28px 16px; }
.frame { position: relative; margin: 0 auto; }
.frame img { display: block; width: 100%; height: 100%; margin: 0; border-radius: 0; }
.loose img { border-radius: 6px; }
.frame svg { position: absolute; inset: 0; width: 100%; height: 100%; overflow: visible; }
.frame polygon { fill: rgb(79 70 229 / .10); stroke: #4f46e5; stroke-width: 2px; vector-effect: non-scaling-stroke;
  cursor: pointer; outline: none; filter: drop-shadow(0 0 1px #fff); }
.frame polygon:hover, .frame polygon:focus-visible { fill: rgb(79 70 229 / .28); }
.frame polygon.chosen { stroke: #f97316; stroke-width: 3px; fill: rgb(249 115 22 / .18); }
.stage figcaption { display: flex; gap: 12px; align-items: center; justify-content: space-between; padding: 10px 14px;
  border-top: 1px solid var(--line); font-size: 13px; color: var(--quiet); }
.stage .name { overflow: hidden; text-overflow: ellipsis; white-space: nowrap; min-width: 0; }
.plain { flex: none; font-size: 13px; font-weight: 550; color: var(--body-text-color); padding: 6px 12px;
  border-radius: 8px;
  border: 1px solid var(--line); background: var(--soft); cursor: pointer; text-decoration: none; }
.plain:hover { border-color: var(--mark); color: var(--mark); }

.hint { color: var(--quiet); margin: 0; padding: 6px 0; }
.note, .small { color: var(--quiet); font-size: 13px; margin: 10px 0 0; }
.notice { display: flex; flex-direction: column; gap: 4px; padding: 14px 16px; border-radius: 10px;
  overflow-wrap: anywhere;
  border: 1px solid color-mix(in oklab, var(--low) 45%, transparent);
  background: color-mix(in oklab, var(--low) 9%, var(--card)); }
.headline { display: flex; flex-wrap: wrap; gap: 6px 16px; align-items: baseline; justify-content: space-between; }
.headline .text { font-size: 34px; line-height: 1.25; font-weight: 600; overflow-wrap: anywhere; min-width: 0; }
.headline i { color: var(--quiet); font-weight: 400; }
.sure { display: flex; align-items: center; gap: 8px; color: var(--quiet); font-size: 14px; white-space: nowrap; }
.sure b, .words b, .letters b, .others b { font-variant-numeric: tabular-nums; font-weight: 600;
  color: var(--body-text-color); }
.meter { display: inline-block; width: 56px; height: 6px; border-radius: 3px; overflow: hidden; flex: none;
  background: color-mix(in oklab, var(--quiet) 22%, transparent); }
.meter i { display: block; height: 100%; width: calc(var(--p) * 100%); border-radius: 3px;
  background: color-mix(in oklab, var(--high) calc(var(--p) * 100%), var(--low)); }

#results h4 { font-size: 13px; font-weight: 600; color: var(--quiet); margin: 18px 0 8px; }
.letters, .others { list-style: none; margin: 0; padding: 0; }
.letters { display: grid; grid-template-columns: repeat(auto-fill, minmax(112px, 1fr)); gap: 10px; }
.letters li { display: grid; grid-template-columns: auto 1fr auto; align-items: center; gap: 4px 8px; margin: 0;
  padding: 8px; border-radius: 10px; background: var(--soft); font-size: 12.5px; }
.letters img { grid-column: 1 / -1; width: 100%; height: auto; min-height: 44px; max-height: 120px;
  object-fit: contain; background: #0b0d12;
  border-radius: 6px; margin: 0; }
.letters .letter { font-size: 20px; line-height: 1.2; font-weight: 600; min-width: 16px; }
.letters .meter { width: auto; min-width: 12px; }
.others li { display: flex; justify-content: space-between; gap: 12px; padding: 6px 2px; margin: 0;
  border-bottom: 1px solid var(--line); overflow-wrap: anywhere; }
.closeup { margin-top: 14px; padding-top: 18px; border-top: 1px solid var(--line); }
.closeup img { display: block; max-width: 100%; max-height: 96px; width: auto; min-height: 40px; object-fit: contain;
  border-radius: 8px; margin: 0 0 10px; }

.scroll { max-height: 330px; overflow: auto; margin: 0 -8px; }
.words { width: 100%; border-collapse: collapse; font-size: 14.5px; border: 0; margin: 0; }
.words caption { caption-side: top; text-align: left; color: var(--quiet); font-size: 14px; padding: 0 8px 8px; }
.words th { position: sticky; top: 0; text-align: left; font-size: 12.5px; font-weight: 550; color: var(--quiet);
  padding: 6px 8px; background: var(--card); border: 0; z-index: 1; }
.words td { padding: 7px 8px; border: 0; border-top: 1px solid var(--line); vertical-align: middle; }
.words td b { margin-left: 8px; } .words .text { font-weight: 600; overflow-wrap: anywhere; }
.words td:last-child { color: var(--quiet); font-variant-numeric: tabular-nums; }
.words .thumb { width: 92px; } .words .thumb img { display: block; max-width: 84px; max-height: 30px;
  border-radius: 4px;
  margin: 0; }
.words tr[data-word] { cursor: pointer; background: transparent; }
.words tr[data-word]:hover td, .words tr[data-word]:focus-visible td { background: var(--soft); }
.words tr.chosen td { background: color-mix(in oklab, #f97316 14%, var(--card)); }
.words tr[data-word]:focus { outline: none; }
.download { margin: 16px 0 0; }

#examples .label { font-size: 13px; color: var(--quiet); margin: 0 0 8px; }
.strip { display: flex; flex-wrap: wrap; gap: 8px; }
.strip button { flex: none; height: 40px; padding: 0; border: 0; border-radius: 8px; overflow: hidden; cursor: pointer;
  background: var(--soft); transition: box-shadow .15s; }
.strip button:hover, .strip button:focus-visible { outline: none;
  box-shadow: 0 0 0 2px var(--card), 0 0 0 4px var(--mark); }
.strip img { display: block; height: 100%; width: auto; margin: 0; }
#settings { padding: 0; } #settings > button { padding: 12px 16px; font-weight: 550; }
#settings > div:last-of-type { padding: 0 6px 6px; } #settings .block, #settings .form { border: 0; box-shadow: none; }

@media (max-width: 820px) {
  .gradio-container .main { padding: 0 14px 32px !important; }
  #header { padding: 18px 0 4px; } #header h1 { font-size: 22px; }
  #layout { grid-template-columns: minmax(0, 1fr); grid-template-areas: "mode" "picture" "results" "more";
    grid-template-rows: none; }
  #results { padding: 16px; min-height: 0; } #results:has(.start) { display: none; }
  .drop { min-height: 210px; } .headline .text { font-size: 28px; }
  .words .thumb { width: 76px; } .words .thumb img { max-width: 68px; }
  .words .meter, .words td:last-child, .words th:last-child { display: none; } .words td b { margin: 0; }
  .letters { grid-template-columns: repeat(auto-fill, minmax(98px, 1fr)); }
  .strip { flex-wrap: nowrap; overflow-x: auto; padding: 4px; margin: -4px; scrollbar-width: none; }
}
@media (prefers-reduced-motion: reduce) { * { transition: none !important; scroll-behavior: auto !important; } }
"""
