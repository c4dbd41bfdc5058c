// @ts-check
// Makes a job of the form and sends it.

import { Refusal, act, element, key } from './page.js';

/** Bytes of files that fit into a request, which carries them as base64. */
const FILES_LEN_MAX = 45 << 20;

const form = element('new-run', HTMLFormElement);
const run = element('run', HTMLButtonElement);
const sending = element('sending', HTMLElement);
const formError = element('form-error', HTMLElement);

/** @typedef {{ path: string, content: string }} JobFile */

/** A field that can't be sent as it is. */
class Invalid extends Error {
  /**
   * @param {string} id of the field
   * @param {string} message
   */
  constructor(id, message) {
    super(message);
    this.id = id;
  }
}

/** @param {string} id */
const text = (id) => /** @type {HTMLInputElement | HTMLTextAreaElement} */ (element(id, HTMLElement)).value;

/** @param {string} id */
const files = (id) => [...(element(id, HTMLInputElement).files ?? [])];

const isHandler = () => new FormData(form).get('kind') === 'handler';

/**
 * @param {Uint8Array} bytes
 * @returns {string}
 */
function toBase64(bytes) {
  let binary = '';
  for (let at = 0; at < bytes.length; at += 0x8000) {
    binary += String.fromCharCode(...bytes.subarray(at, at + 0x8000));
  }
  return btoa(binary);
}

/** @returns {Promise<JobFile[]>} */
async function code() {
  const chosen = files('files');
  const pasted = text('code');
  if (chosen.length > 0 && pasted.trim() !== '') {
    throw new Invalid('code', 'Either files or pasted code: one of them has to go.');
  }
  if (chosen.length === 0) {
    if (pasted.trim() === '') throw new Invalid('files', 'Choose the code, or paste it below.');
    return [{ path: text('file-name').trim(), content: toBase64(new TextEncoder().encode(pasted)) }];
  }
  if (chosen.reduce((sum, file) => sum + file.size, 0) > FILES_LEN_MAX) {
    throw new Invalid('files', `These are more than ${FILES_LEN_MAX >> 20} MiB: export them as an image or a dataset.`);
  }
  return Promise.all(chosen.map(async (file) => ({ path: file.name, content: toBase64(await bytesOf('files', file)) })));
}

/**
 * @param {string} id
 * @param {File} file
 */
async function bytesOf(id, file) {
  try {
    return new Uint8Array(await file.arrayBuffer());
  } catch {
    throw new Invalid(id, `${file.name} can’t be read: choose it again.`);
  }
}

/** The events, each with the name of its file. */
async function events() {
  const chosen = files('events');
  if (chosen.length === 0) return [checked('event', '', text('event'))];
  return Promise.all(
    chosen.map(async (file) => checked('events', `${file.name}: `, new TextDecoder().decode(await bytesOf('events', file)))),
  );
}

/**
 * @param {string} id
 * @param {string} name
 * @param {string} input
 */
function checked(id, name, input) {
  try {
    JSON.parse(input);
  } catch (error) {
    throw new Invalid(id, `${name}this is no JSON: ${error instanceof Error ? error.message : error}`);
  }
  return { name, input };
}

/**
 * @param {string} id
 * @param {number} unit
 */
function number(id, unit) {
  const value = text(id).trim();
  if (value === '' || !Number.isFinite(Number(value))) throw new Invalid(id, 'A number is needed.');
  return Math.max(Math.round(Number(value) * unit), 0);
}

/** @returns {Record<string, string>} */
function environment() {
  const lines = text('env').split('\n').filter((line) => line.trim() !== '');
  return Object.fromEntries(
    lines.map((line) => {
      const at = line.indexOf('=');
      if (at < 1) throw new Invalid('env', `“${line.trim()}” is not NAME=value.`);
      return [line.slice(0, at).trim(), line.slice(at + 1)];
    }),
  );
}

/**
 * @param {string} handler
 * @param {JobFile[]} files
 */
function runtime(handler, files) {
  const module = handler.split('.').slice(0, -1).join('/');
  const isNode = files.some(({ path }) => ['.js', '.mjs', '.cjs', '/index.js'].some((end) => path === module + end));
  return isNode ? 'nodejs' : 'python';
}

/** @param {JobFile[]} files */
function script(files) {
  if (files.length === 1) return { kind: 'script', file: files[0] };
  const named = text('entry').trim();
  const entry = named || ['main.py', 'main.js', 'run.sh'].find((name) => files.some(({ path }) => path === name));
  if (!entry) throw new Invalid('entry', 'Say which of the files is started.');
  return { kind: 'folder', files, entry };
}

/** Jobs to send: one for each event. */
async function jobs() {
  const sent = await code();
  const image = text('image').trim();
  const job = {
    ...(image === '' ? {} : { image }),
    env: environment(),
    limits: {
      cpus_milli: number('cpus', 1000),
      memory_bytes: number('memory', 1 << 20),
      pids: number('pids', 1),
      timeout_ms: number('timeout', 1000),
    },
    network: element('network', HTMLInputElement).checked ? 'isolated' : 'none',
    // It goes on when this page is closed.
    detach: true,
  };
  if (!isHandler()) {
    const args = text('args').split('\n').filter((line) => line !== '');
    return [{ name: '', body: { ...job, args, program: script(sent) } }];
  }
  const handler = text('handler').trim();
  return (await events()).map(({ name, input }) => ({
    name,
    body: { ...job, program: { kind: 'handler', runtime: runtime(handler, sent), handler, files: sent, input } },
  }));
}

/**
 * The input that a field of the request came from.
 * @param {string} field
 */
function inputOf(field) {
  const source = files('files').length > 0 ? 'files' : 'code';
  const name = files('files').length > 0 ? 'files' : 'file-name';
  /** @type {Record<string, string>} */
  const inputs = {
    image: 'image',
    args: 'args',
    env: 'env',
    network: 'network',
    'program.handler': 'handler',
    'program.files': name,
    'program.file.path': name,
    'program.entry': 'entry',
    'program.input': files('events').length > 0 ? 'events' : 'event',
    'limits.cpus_milli': 'cpus',
    'limits.memory_bytes': 'memory',
    'limits.pids': 'pids',
    'limits.timeout_ms': 'timeout',
    policy: source,
  };
  return inputs[field];
}

/** @param {HTMLElement} input */
function clear(input) {
  input.removeAttribute('aria-invalid');
  const place = document.getElementById(`${input.id}-error`);
  if (place) place.textContent = '';
}

/**
 * @param {string} id
 * @param {string} message
 */
function show(id, message) {
  const input = element(id, HTMLElement);
  const hidden = input.closest('details');
  if (hidden) hidden.open = true;
  input.setAttribute('aria-invalid', 'true');
  element(`${id}-error`, HTMLElement).textContent = message;
  input.focus();
}

/** @param {unknown} error */
function tell(error) {
  if (error instanceof Invalid) return show(error.id, error.message);
  if (!(error instanceof Refusal)) throw error;
  const id = inputOf(error.code === 'policy' ? 'policy' : (error.field ?? ''));
  if (id) return show(id, error.message);
  formError.textContent = error.message;
  formError.hidden = false;
}

async function submit() {
  formError.hidden = true;
  form.querySelectorAll('[aria-invalid]').forEach((input) => clear(/** @type {HTMLElement} */ (input)));
  const all = await jobs();
  sending.textContent = 'Sending …';
  if (all.length === 1) {
    const job = await act('/v1/jobs', all[0].body);
    location.assign(`/run/${job.id}`);
    return;
  }
  try {
    const { jobs: accepted } = await act('/v1/jobs/batch', { jobs: all.map(({ body }) => body) });
    location.assign(`/?q=${encodeURIComponent(accepted[0].filename)}`);
  } catch (error) {
    const [, number, field] = /^jobs\.(\d+)\.(.*)$/.exec((error instanceof Refusal && error.field) || '') ?? [];
    if (error instanceof Refusal && field) {
      error.field = field;
      error.message = all[Number(number)].name + error.message;
    }
    throw error;
  }
}

function adapt() {
  for (const part of /** @type {NodeListOf<HTMLElement>} */ (form.querySelectorAll('[data-for]'))) {
    part.hidden = (part.dataset.for === 'handler') !== isHandler();
  }
}

form.addEventListener('submit', async (event) => {
  event.preventDefault();
  run.disabled = true;
  try {
    await submit();
  } catch (error) {
    sending.textContent = '';
    run.disabled = false;
    tell(error);
  }
});
form.addEventListener('input', (event) => clear(/** @type {HTMLElement} */ (event.target)));
form.addEventListener('change', adapt);
// A page that was left and came back has its fields, and no request under way.
window.addEventListener('pageshow', () => {
  run.disabled = false;
  sending.textContent = '';
  adapt();
});
adapt();
element('no-script', HTMLElement).hidden = true;
element('no-key', HTMLElement).hidden = key() !== null;
