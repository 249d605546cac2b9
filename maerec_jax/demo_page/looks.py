"""What the page does in the browser, beside Gradio: sizes for phones, shadows, and what needs no server."""

STYLE = """
.gradio-container { --block-info-text-color: color-mix(in srgb, var(--body-text-color) 65%, transparent) }
#picture { padding-top: 1.9rem }
#examples .grid-wrap, #characters .grid-wrap { padding-top: 2.2rem }
#examples .grid-container { grid: auto-flow auto / repeat(auto-fill, minmax(7rem, 1fr)) }
#examples .thumbnail-item { aspect-ratio: 2 }
#examples .caption-label { display: none }
#characters .grid-container { grid: auto-flow auto / repeat(auto-fill, minmax(8.5rem, 1fr)) }
#characters .thumbnail-item { aspect-ratio: auto; height: auto }
#characters .thumbnail-item img { height: auto; max-height: 12rem }
#characters .caption-label { position: static; max-width: none; border: none; text-align: center }
#actions button { padding-inline: 0.25rem; white-space: nowrap }
#words .virtual-table-viewport::after { content: ""; position: sticky; bottom: 0; flex: none; height: 2.5rem;
  margin-top: -2.5rem; pointer-events: none; opacity: 0;
  background: linear-gradient(transparent, color-mix(in srgb, var(--body-text-color) 25%, transparent));
  animation: goes-on linear; animation-timeline: scroll() }
@media (max-width: 40rem) {
  #both:has(#actions button) > .column { display: contents }
  #both:has(#actions button) > .column > * { flex: 1 1 100% }
  #both:has(#actions button) :is(#examples, #settings) { order: 1 }
}
@keyframes goes-on { 0%, 90% { opacity: 1 } 100% { opacity: 0 } }
"""
"""As many pictures in a row as fit, none of them cut or behind a label; a shadow where the list of words goes on.
On phones what was read comes right below its picture, before examples and settings."""

CLEAR = """() => {
  const hidden = {__type__: 'update', visible: false};
  return [{}, null, hidden, hidden, hidden];
}"""
"""Of the reading, its characters, other readings, the list of words and the buttons below."""

# No example is marked while another picture is shown.
UNSELECT = "() => ({__type__: 'update', selected_index: null})"

COPY = """async text => {
  if (navigator.clipboard) await navigator.clipboard.writeText(text);
  else {  // the page is neither on this machine nor behind TLS
    const area = Object.assign(document.createElement('textarea'), {value: text});
    document.body.append(area);
    area.select();
    document.execCommand('copy');
    area.remove();
  }
  return 'Copied';
}"""
COPIED = "() => new Promise(done => setTimeout(() => done('Copy all text'), 1500))"
"""The button says for a moment what has happened."""
