"""What the page's parts do in the browser, as JavaScript for ``gr.HTML(js_on_load=...)``.

Each is run once, with its part's ``element``, ``trigger(event, data)``, ``props`` and ``upload(file)``. The parts'
contents come and go, so that all listen at their ``element``.
"""

_CHOOSE = """
const choose = target => {
  const word = target.closest('[data-word]');
  if (!word) return false;
  document.querySelectorAll('[data-word]').forEach(
    other => other.classList.toggle('chosen', other.dataset.word === word.dataset.word));
  window.maerecChosen = true;
  trigger('choose', {index: Number(word.dataset.word)});
  return true;
};
const pressed = act => event => {
  if ((event.key === 'Enter' || event.key === ' ') && event.target.tagName !== 'BUTTON' && act(event.target))
    event.preventDefault();
};
"""

PICTURE = (
    _CHOOSE
    + """
const input = element.querySelector('input[type=file]');
const take = async file => {
  if (!file || document.body.classList.contains('uploading')) return;
  const name = file.name || 'pasted picture';
  if (file.size > props.most_bytes) return trigger('refuse', {name, large: true});
  document.body.classList.add('uploading');
  try {
    const made = await upload(file);
    trigger('take', {name, path: made.path});
  } catch (error) {
    trigger('refuse', {name, large: false});
  } finally {
    document.body.classList.remove('uploading');
    input.value = '';
  }
};
const act = target => {
  if (choose(target)) return true;
  if (!target.closest('[data-pick]')) return false;
  input.click();
  return true;
};
input.addEventListener('change', () => take(input.files[0]));
element.addEventListener('click', event => act(event.target));
element.addEventListener('keydown', pressed(act));
const typing = target => target.closest && target.closest('input:not([type=file]):not([type=radio]), textarea');
document.addEventListener('paste', event => {
  const files = [...event.clipboardData.files];
  const file = files.find(one => one.type.startsWith('image/')) || files[0];
  if (!file || typing(event.target)) return;
  event.preventDefault();
  take(file);
});
let inside = 0;
const dragging = on => document.body.classList.toggle('dragging', on);
document.addEventListener('dragenter', event => { event.preventDefault(); inside += 1; dragging(true); });
document.addEventListener('dragleave', () => { inside -= 1; if (inside <= 0) { inside = 0; dragging(false); } });
document.addEventListener('dragover', event => event.preventDefault());
document.addEventListener('drop', event => {
  event.preventDefault();
  inside = 0;
  dragging(false);
  take(event.dataTransfer.files[0]);
});
"""
)
"""Takes files that are dropped or pasted anywhere, or picked, and words that are chosen in the picture."""

RESULTS = (
    _CHOOSE
    + """
element.addEventListener('click', event => choose(event.target));
element.addEventListener('keydown', pressed(choose));
"""
)
"""Takes words that are chosen in the table."""

DETAIL = """
watch('value', () => {
  if (!window.maerecChosen) return;
  window.maerecChosen = false;
  element.scrollIntoView({block: 'nearest', behavior: 'smooth'});
});
"""
"""Brings a chosen word into view, which on phones is far below."""

EXAMPLES = """
element.addEventListener('click', event => {
  const example = event.target.closest('[data-example]');
  if (example) trigger('choose', {index: Number(example.dataset.example)});
});
"""
"""Takes examples that are chosen."""
