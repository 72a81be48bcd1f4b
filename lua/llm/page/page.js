// The page at /: chat, parameters, what the engine does, the server's scripts. Text of the model goes into the page as
// text nodes only.
'use strict';

const $ = id => document.getElementById(id);

function element(tag, className, text) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}

// ---- requests to the server ----------------------------------------------------------------------------------------

const KEY = 'llmlua-key';
let asking = null;  // the promise of the key dialog that is open

function askForKey(why) {
  if (asking) return asking;
  const dialog = $('ask');
  $('ask-why').textContent = why;
  $('ask-key').value = '';
  dialog.returnValue = 'cancel';
  dialog.showModal();
  $('ask-key').focus();
  asking = new Promise(resolve => {
    dialog.addEventListener('close', () => {
      asking = null;
      if (dialog.returnValue !== 'use') return resolve(false);
      const key = $('ask-key').value.trim();
      if (key) sessionStorage.setItem(KEY, key); else sessionStorage.removeItem(KEY);
      $('ask-key').value = '';
      resolve(true);
    }, { once: true });
  });
  return asking;
}

async function failureOf(response) {
  let message = `${response.status} ${response.statusText}`;
  let body = null;
  try {
    body = await response.json();
    message = body.error.message;
  } catch { /* no JSON: the status says it */ }
  return Object.assign(new Error(message), { status: response.status, body });
}

// fetch with the key; asks for one when the server wants it. quiet: does not ask.
async function api(path, options = {}, quiet = false) {
  for (;;) {
    const key = sessionStorage.getItem(KEY);
    const headers = { ...options.headers };
    if (key) headers.Authorization = `Bearer ${key}`;
    if (options.body && !headers['Content-Type']) headers['Content-Type'] = 'application/json';
    const response = await fetch(path, { ...options, headers, cache: 'no-store' });
    if (response.ok) return response;
    const failure = await failureOf(response);
    if (response.status !== 401 || quiet) throw failure;
    const why = key ? 'The server does not know this key.' : 'This server needs an API key.';
    if (sessionStorage.getItem(KEY) === key && !await askForKey(why)) throw failure;
  }
}

// The data of server-sent events, parsed.
async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let buffer = '';
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    buffer += value;
    const blocks = buffer.split('\n\n');
    buffer = blocks.pop();
    for (const block of blocks) {
      if (!block.startsWith('data: ')) continue;
      const data = block.slice(6);
      if (data === '[DONE]') return;
      yield JSON.parse(data);
    }
  }
}

// ---- parameters ----------------------------------------------------------------------------------------------------

const PARAMS = 'llmlua-params';
const NUMBERS = ['temperature', 'top_p', 'top_k', 'min_p', 'max_tokens', 'seed'];
const TOP_LOGPROBS = 5;
const form = $('params');

function saveParams() {
  const kept = {};
  for (const field of form.elements) {
    if (field.name) kept[field.name] = field.type === 'checkbox' ? field.checked : field.value;
  }
  localStorage.setItem(PARAMS, JSON.stringify(kept));
  $('log').classList.toggle('shade', form.elements.shade.checked);
}

function loadParams() {
  let kept = {};
  try { kept = JSON.parse(localStorage.getItem(PARAMS)) || {}; } catch { localStorage.removeItem(PARAMS); }
  for (const field of form.elements) {
    if (!(field.name in kept)) continue;
    if (field.type === 'checkbox') field.checked = kept[field.name]; else field.value = kept[field.name];
  }
  saveParams();
}

function requestBody(history) {
  const fields = form.elements;
  const system = fields.system.value.trim();
  const body = { messages: system ? [{ role: 'system', content: system }, ...history] : history, stream: true,
                 stream_options: { include_usage: true } };
  for (const name of NUMBERS) {
    if (fields[name].value !== '') body[name] = Number(fields[name].value);
  }
  const stop = fields.stop.value.split('\n').filter(line => line !== '');
  if (stop.length) body.stop = stop;
  if (fields.logprobs.checked) Object.assign(body, { logprobs: true, top_logprobs: TOP_LOGPROBS });
  return body;
}

form.addEventListener('input', saveParams);
form.addEventListener('reset', () => setTimeout(saveParams));
form.addEventListener('submit', event => event.preventDefault());

// ---- tokens and their probabilities --------------------------------------------------------------------------------

const entriesOf = new WeakMap();  // span -> the logprob entries of its tokens

// Adds a piece of a reply. pending: entries of tokens whose text has not come yet (part of a character).
function addPiece(reply, content, entries) {
  reply.pending.push(...entries);
  if (!content) return;
  if (!reply.pending.length) return reply.text.append(content);
  const exact = reply.pending.map(entry => entry.token).join('') === content;
  const pieces = exact ? reply.pending.map(entry => [entry.token, [entry]]) : [[content, reply.pending]];
  for (const [text, own] of pieces) {
    const p = Math.exp(Math.min(...own.map(entry => entry.logprob)));
    const span = element('span', `token p${p < 0.1 ? 0 : p < 0.3 ? 1 : p < 0.6 ? 2 : p < 0.9 ? 3 : 4}`, text);
    span.tabIndex = reply.text.querySelector('.token') ? -1 : 0;
    entriesOf.set(span, own);
    reply.text.append(span);
  }
  reply.pending = [];
}

const visible = text => text.replace(/\n/g, '↵').replace(/\t/g, '⇥').replace(/ /g, '␣') || '∅';
const percent = p => p >= 0.9995 ? '100 %' : p >= 0.1 ? `${(p * 100).toFixed(1)} %` : `${(p * 100).toPrecision(2)} %`;

function tipRow(entry, own) {
  const p = Math.exp(entry.logprob);
  const row = element('div', own ? 'row own' : 'row');
  const bar = element('div', 'bar');
  const fill = element('div', 'fill');
  fill.style.width = `${p * 100}%`;
  bar.append(fill);
  row.append(element('span', 'word', visible(entry.token)), bar, element('span', 'share', percent(p)));
  return row;
}

function showTip(span) {
  const tip = $('tip');
  tip.replaceChildren();
  const words = [];
  for (const entry of entriesOf.get(span)) {
    const others = entry.top_logprobs.filter(other => other.token !== entry.token);
    const all = [entry, ...others].sort((a, b) => b.logprob - a.logprob);
    for (const one of all) tip.append(tipRow(one, one === entry));
    words.push(`${entry.token} ${percent(Math.exp(entry.logprob))}`);
  }
  span.setAttribute('aria-label', words.join(', '));
  span.setAttribute('aria-describedby', 'tip');
  tip.hidden = false;
  const at = span.getClientRects()[0];
  const below = at.bottom + 6 + tip.offsetHeight <= innerHeight;
  tip.style.left = `${Math.max(4, Math.min(at.left, innerWidth - tip.offsetWidth - 4))}px`;
  tip.style.top = `${below ? at.bottom + 6 : Math.max(4, at.top - 6 - tip.offsetHeight)}px`;
}

function hideTip() { $('tip').hidden = true; }

const tokenAt = event => event.target.closest?.('.token');

$('log').addEventListener('mouseover', event => { if (tokenAt(event)) showTip(tokenAt(event)); else hideTip(); });
$('log').addEventListener('mouseleave', hideTip);
$('log').addEventListener('scroll', hideTip);
$('log').addEventListener('focusin', event => { if (tokenAt(event)) showTip(tokenAt(event)); });
$('log').addEventListener('focusout', hideTip);
$('log').addEventListener('keydown', event => {
  const token = tokenAt(event);
  const tokens = token && [...token.parentNode.querySelectorAll('.token')];
  const i = tokens && tokens.indexOf(token);
  const to = tokens && { ArrowRight: i + 1, ArrowLeft: i - 1, Home: 0, End: tokens.length - 1 }[event.key];
  if (!tokens || !tokens[to]) return;
  event.preventDefault();
  token.tabIndex = -1;
  tokens[to].tabIndex = 0;
  tokens[to].focus();
});

// ---- chat ----------------------------------------------------------------------------------------------------------

const history = [];  // {role, content}, as they are sent
let running = null;  // AbortController of the reply that is streaming

function addMessage(role, text) {
  $('empty').hidden = true;
  const node = element('article', `message ${role}`);
  node.setAttribute('aria-label', role === 'user' ? 'You' : 'Model');
  const reply = { node, text: element('div', 'text', text), meta: element('div', 'meta'), pending: [], content: '' };
  node.append(reply.text, reply.meta);
  $('log').append(node);
  $('log').scrollTop = $('log').scrollHeight;
  return reply;
}

function updateButtons() {
  $('send').disabled = running !== null;
  $('stop-reply').disabled = running === null;
  $('retry').disabled = running !== null || !history.some(message => message.role === 'user');
  $('new').disabled = running !== null;
}

async function readReply(reply, signal) {
  const log = $('log');
  const began = performance.now();
  let first = null, usage = null, reason = null;
  const response = await api('v1/chat/completions', { method: 'POST', body: JSON.stringify(requestBody(history)), signal });
  for await (const event of events(response)) {
    if (event.error) throw new Error(event.error.message);
    usage = event.usage || usage;
    const choice = event.choices[0];
    if (!choice) continue;
    reason = choice.finish_reason || reason;
    const content = choice.delta.content || '';
    if (content) first ??= performance.now();
    const follow = log.scrollHeight - log.scrollTop - log.clientHeight < 40;
    reply.content += content;
    addPiece(reply, content, choice.logprobs?.content || []);
    if (follow) log.scrollTop = log.scrollHeight;
  }
  const seconds = (performance.now() - (first ?? began)) / 1000;
  const parts = [];
  if (usage) {
    parts.push(`${usage.prompt_tokens} + ${usage.completion_tokens} tokens`);
    if (usage.completion_tokens > 1) parts.push(`${((usage.completion_tokens - 1) / seconds).toFixed(1)} tokens/s`);
  }
  if (first) parts.push(`first after ${((first - began) / 1000).toFixed(2)} s`);
  if (reason) parts.push(`finished: ${reason}`);
  reply.meta.textContent = parts.join(' · ');
}

async function answer() {
  running = new AbortController();
  updateButtons();
  const log = $('log');
  const reply = addMessage('assistant', '');
  reply.node.classList.add('live');
  log.setAttribute('aria-busy', 'true');
  try {
    await readReply(reply, running.signal);
  } catch (failure) {
    if (failure.name === 'AbortError') {
      reply.meta.textContent = 'stopped';
    } else {
      reply.meta.replaceChildren(element('span', 'error', failure.message));
      reply.meta.setAttribute('role', 'alert');
    }
  }
  reply.node.classList.remove('live');
  log.removeAttribute('aria-busy');
  if (reply.content) history.push({ role: 'assistant', content: reply.content });
  running = null;
  updateButtons();
}

function send() {
  const text = $('prompt').value.trim();
  if (!text || running || !form.reportValidity()) return;
  $('prompt').value = '';
  history.push({ role: 'user', content: text });
  addMessage('user', text);
  answer();
}

// The last question again.
function retry() {
  if (running || !form.reportValidity()) return;
  if (history.at(-1)?.role === 'assistant') history.pop();
  const last = $('log').lastElementChild;
  if (last.classList.contains('assistant')) last.remove();
  answer();
}

function newChat() {
  history.length = 0;
  for (const node of $('log').querySelectorAll('.message')) node.remove();
  $('empty').hidden = false;
  updateButtons();
  $('prompt').focus();
}

$('composer').addEventListener('submit', event => { event.preventDefault(); send(); });
$('prompt').addEventListener('keydown', event => {
  if (event.key !== 'Enter' || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  send();
});
document.addEventListener('keydown', event => {
  if (event.key !== 'Escape' || $('ask').open || $('editor').open) return;
  hideTip();
  running?.abort();
});
$('stop-reply').addEventListener('click', () => { running?.abort(); $('prompt').focus(); });
$('retry').addEventListener('click', retry);
$('new').addEventListener('click', newChat);
$('key').addEventListener('click', async () => {
  if (await askForKey('The key that this page sends to the server.')) poll();
});

// ---- the engine's state --------------------------------------------------------------------------------------------

const POLL_MS = 1000;
const N_SAMPLES = 120;
const MAP_HEIGHT = 120, LEAST_CELL = 3;  // CSS pixels
const samples = [];  // of the last two minutes: {running, waiting, output, prompt}
let previous = null; // the state before, to tell rates
let timer = null;

const color = name => getComputedStyle(document.documentElement).getPropertyValue(name);

// The canvas, cleared, in CSS pixels.
function clear(canvas) {
  const ratio = devicePixelRatio, width = canvas.clientWidth, height = canvas.clientHeight;
  if (canvas.width !== Math.round(width * ratio)) canvas.width = Math.round(width * ratio);
  if (canvas.height !== Math.round(height * ratio)) canvas.height = Math.round(height * ratio);
  const context = canvas.getContext('2d');
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  context.clearRect(0, 0, width, height);
  return { context, width, height };
}

function drawGraph(canvas, names) {
  const { context, width, height } = clear(canvas);
  const top = Math.max(1, ...samples.flatMap(sample => names.map(name => sample[name])));
  context.fillStyle = color('--free');
  context.fillRect(0, height - 1, width, 1);
  names.forEach((name, i) => {
    context.strokeStyle = color(i ? '--two' : '--one');
    context.lineWidth = 1.5;
    context.beginPath();
    samples.forEach((sample, j) => {
      const x = width - (samples.length - 1 - j) * width / (N_SAMPLES - 1);
      context.lineTo(x, height - 2 - (height - 6) * sample[name] / top);
    });
    context.stroke();
  });
}

// What the pages hold, a number each; of an engine with too many pages only how many are in use.
const FREE = 0, CACHED = 1, SHARED = 2;

function pagesOf({ kv_map: runs, kv_pages: n, kv_pages_used: used }) {
  const pages = new Uint8Array(n);
  let at = 0;
  for (let i = 0; i < (runs ?? [SHARED, used]).length; i += 2) {
    const [what, count] = (runs ?? [SHARED, used]).slice(i, i + 2);
    pages.fill(what, at, at += count);
  }
  return pages;
}

function pageColor(what) {
  if (what === FREE) return color('--free');
  if (what === CACHED) return color('--kept');
  if (what === SHARED) return color('--two');
  return `hsl(${what * 137 % 360} 60% 55%)`;  // neighbours in number differ most
}

// A cell for a page, or for some in a row, of which it shows what is in use before what is kept.
function drawPages(canvas, state) {
  const pages = pagesOf(state), width = canvas.clientWidth;
  const most = Math.floor(width / LEAST_CELL) * Math.floor(MAP_HEIGHT / LEAST_CELL);
  const each = Math.max(1, Math.ceil(pages.length / most)), cells = Math.ceil(pages.length / each);
  const size = Math.min(24, Math.max(LEAST_CELL, Math.floor(Math.sqrt(width * MAP_HEIGHT / cells))));
  const columns = Math.floor(width / size);
  canvas.style.height = `${Math.ceil(cells / columns) * size}px`;
  const { context } = clear(canvas);
  for (let i = 0; i < cells; i++) {
    let what = FREE;
    for (let page = i * each; page < Math.min(pages.length, (i + 1) * each); page++) what = Math.max(what, pages[page]);
    context.fillStyle = pageColor(what);
    context.fillRect(i % columns * size, Math.floor(i / columns) * size, size - 1, size - 1);
  }
  const kept = pages.reduce((sum, what) => sum + (what === CACHED), 0);
  const used = state.kv_pages_used, free = Math.max(0, pages.length - used - kept);
  $('kv-note').textContent = `A cell is ${each === 1 ? 'a page' : `${each} pages`} of ${state.page_tokens} tokens. `
    + `${used} in use, coloured by request; ${kept} kept for prefixes; ${free} free. At most ${state.kv_pages_peak} were in use.`;
}

const bytes = n => n >= 2 ** 30 ? `${(n / 2 ** 30).toFixed(1)} GiB` : `${(n / 2 ** 20).toFixed(0)} MiB`;
const count = n => n.toLocaleString('en').replaceAll(',', ' ');

function showFacts(state) {
  const hits = state.prefix_queries ? `${(100 * state.prefix_hits / state.prefix_queries).toFixed(0)} %` : '–';
  const facts = [['Model', `${state.architecture}, ${bytes(state.weight_bytes)}`],
                 ['Context', `${count(state.max_model_len)} tokens`],
                 ['Runs on', `${state.backend}, ${state.isa}, ${state.threads} threads`],
                 ['Prompt tokens', count(state.prompt_tokens)], ['Output tokens', count(state.output_tokens)],
                 ['Prefix hits', hits], ['Preemptions', count(state.preemptions)], ['Version', state.version]];
  $('facts').replaceChildren(...facts.flatMap(([name, value]) => [element('dt', '', name), element('dd', '', value)]));
}

function addSample(state) {
  const seconds = previous && state.time - previous.time;
  const rate = name => seconds > 0 ? Math.max(0, (state[name] - previous[name]) / seconds) : 0;
  samples.push({ running: state.running, waiting: state.waiting, output: rate('output_tokens'), prompt: rate('prompt_tokens') });
  if (samples.length > N_SAMPLES) samples.shift();
  previous = state;
}

function showState(state) {
  noticeScripts(state);
  addSample(state);
  const now = samples.at(-1);
  $('model').textContent = state.model;
  showFacts(state);
  drawPages($('kv'), state);
  $('kv-text').textContent = `${state.kv_pages_used} of ${state.kv_pages}`;
  $('kv').setAttribute('aria-label', `${state.kv_pages_used} of ${state.kv_pages} KV pages in use`);
  drawGraph($('batch'), ['running', 'waiting']);
  $('batch-text').textContent = `${now.running} · ${now.waiting}`;
  $('batch').setAttribute('aria-label', `${now.running} requests running, ${now.waiting} waiting`);
  drawGraph($('rate'), ['output', 'prompt']);
  $('rate-text').textContent = `${now.output.toFixed(0)} · ${now.prompt.toFixed(0)}`;
  $('rate').setAttribute('aria-label', `${now.output.toFixed(0)} output and ${now.prompt.toFixed(0)} prompt tokens a second`);
}

// A script may be loaded from elsewhere too: by its file, a signal, another page.
function noticeScripts(state) {
  if (!state.scripts) return;
  $('scripts').hidden = false;
  if (state.generation !== shown && $('scripts').open) showScripts();
}

function setConnection(up, text) {
  const node = $('connection');
  if (node.textContent === text) return;
  node.className = `connection ${up ? 'up' : 'down'}`;
  node.textContent = text;
}

// Asks for the state, and again in a second as long as the page is seen. A dialog for a key that was left alone is not
// opened again by itself.
async function poll() {
  clearTimeout(timer);
  if (document.hidden) return;
  try {
    showState(await (await api('admin/state')).json());
    setConnection(true, 'connected');
  } catch (failure) {
    setConnection(false, failure.status === 401 ? 'no key' : 'not connected');
    if (failure.status === 401) return;
  }
  timer = setTimeout(poll, POLL_MS);
}

document.addEventListener('visibilitychange', poll);

// ---- scripts -------------------------------------------------------------------------------------------------------

let shown = null;  // the generation that the list has as active

const place = failure => failure.file ? ` (${failure.file}${failure.line ? `:${failure.line}` : ''})` : '';

function showGenerations(status) {
  shown = status.generations.find(one => one.active).id;
  const rows = status.generations.toReversed().map(one => {
    const row = element('tr', one.active ? 'active' : '');
    const cells = [`${one.id}${one.active ? ', active' : ''}`, new Date(one.loaded_at * 1000).toLocaleTimeString([], { hour12: false }),
                   one.n_requests, one.n_running];
    row.append(...cells.map(cell => element('td', '', String(cell))));
    return row;
  });
  $('generations').tBodies[0].replaceChildren(...rows);
  $('rollback').disabled = status.generations.length < 2;
  $('edit').disabled = status.script === null;
  $('reload').disabled = status.script === null;
}

async function showScripts(note) {
  try {
    const status = await (await api('admin/scripts')).json();
    showGenerations(status);
    const failure = status.last_failure;
    $('scripts-note').textContent = note ?? (failure ? failure.message + place(failure)
      : status.script ? `${status.script}${status.watching ? ', watched' : ''}` : 'The bundled script; copy it to a file to change it.');
  } catch (failure) {
    $('scripts-note').textContent = failure.message;
  }
}

async function act(path) {
  let note;
  try {
    shown = (await (await api(path, { method: 'POST' })).json()).id;
    note = `Generation ${shown} serves.`;
  } catch (failure) {
    note = failure.message + place(failure.body || {});
  }
  showScripts(note);
}

$('scripts').addEventListener('toggle', () => { if ($('scripts').open) showScripts(); });
$('reload').addEventListener('click', () => act('admin/reload'));
$('rollback').addEventListener('click', () => act('admin/rollback'));

// ---- the editor ----------------------------------------------------------------------------------------------------

let opened = null;  // {path, tag, text}: the file in the editor as the server has it

const fileUrl = path => `admin/file?path=${encodeURIComponent(path)}`;
const isDirty = () => opened !== null && $('code').value !== opened.text;
const mayDrop = () => !isDirty() || confirm('Drop what is not saved?');

function selectLine(line) {
  const lines = $('code').value.split('\n');
  if (!line || line > lines.length) return;
  const start = lines.slice(0, line - 1).reduce((sum, text) => sum + text.length + 1, 0);
  $('code').focus();
  $('code').setSelectionRange(start, start + lines[line - 1].length);
}

async function openFile(path) {
  try {
    const response = await api(fileUrl(path));
    $('code').value = await response.text();
    opened = { path, tag: response.headers.get('ETag'), text: $('code').value };
    $('code').setSelectionRange(0, 0);
    $('editor-note').textContent = '';
  } catch (failure) {
    $('editor-note').textContent = failure.message;
  }
  $('file').value = opened?.path;
}

async function openEditor() {
  try {
    const status = await (await api('admin/scripts')).json();
    const files = status.generations.find(one => one.active).files;
    $('file').replaceChildren(...files.map(path => new Option(path, path)));
    $('editor').showModal();
    await openFile(status.script && files.includes(status.script) ? status.script : files[0]);
    $('code').focus();
  } catch (failure) {
    $('scripts-note').textContent = failure.message;
  }
}

async function save() {
  const text = $('code').value;
  $('save').disabled = true;
  try {
    const response = await fetch(fileUrl(opened.path), { method: 'PUT', body: text, headers: {
      'Content-Type': 'text/plain; charset=utf-8', 'If-Match': opened.tag,
      Authorization: `Bearer ${sessionStorage.getItem(KEY)}` } });
    const tag = response.headers.get('ETag'); // the file is written, whether or not the script could be loaded
    if (tag) opened = { ...opened, tag, text };
    if (!response.ok) throw await failureOf(response);
    $('editor-note').textContent = `Saved; generation ${(await response.json()).id} serves.`;
  } catch (failure) {
    $('editor-note').textContent = `${failure.status === 422 ? 'Saved, but the old script goes on: ' : ''}${failure.message}`;
    if (failure.body?.file === opened.path) selectLine(failure.body.line);
  }
  $('save').disabled = false;
  showScripts();
}

function closeEditor() {
  if (!mayDrop()) return;
  opened = null;
  $('editor').close();
}

$('edit').addEventListener('click', openEditor);
$('save').addEventListener('click', save);
$('close-editor').addEventListener('click', closeEditor);
$('editor').addEventListener('cancel', event => { event.preventDefault(); closeEditor(); });
$('editor').addEventListener('keydown', event => {
  if (event.key !== 's' || !(event.ctrlKey || event.metaKey)) return;
  event.preventDefault();
  save();
});
$('file').addEventListener('change', () => { if (mayDrop()) openFile($('file').value); else $('file').value = opened.path; });

// --------------------------------------------------------------------------------------------------------------------

loadParams();
updateButtons();
$('prompt').focus();
poll();
