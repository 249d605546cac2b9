"""What the page does in the browser, beside Gradio, without the server; its styles are in page.css."""

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
