// @ts-check
// A job as it goes: its output, its state, what it uses, and a button that ends it.

import { act, element, key, refresh } from './page.js';
import { Decoder, Log, fromBase64 } from './output.js';
import { Usage } from './usage.js';

/** @typedef {import('./output.js').Stream} Stream */

const job = element('job', HTMLElement);
const id = job.dataset.job ?? '';
const live = element('live', HTMLElement);
const connection = element('connection', HTMLElement);
const log = new Log(element('log', HTMLElement), element('newest', HTMLElement));
const usage = new Usage(element('usage', HTMLElement));
const decoders = { stdout: new Decoder(), stderr: new Decoder() };

/** @param {string} text */
function say(text) {
  connection.textContent = text;
  connection.hidden = text === '';
}

/** What the page came with makes place for what comes. */
function begin() {
  element('panes', HTMLElement).hidden = true;
  element('log', HTMLElement).hidden = false;
}

/** Parts that the worker makes anew; the button belongs to them. */
async function renew() {
  await refresh(['summary', 'answer', 'saves', 'facts'], true);
  offerCancel();
}

function offerCancel() {
  const button = document.getElementById('cancel');
  if (!(button instanceof HTMLButtonElement) || key() === null) return;
  button.hidden = false;
  button.addEventListener('click', async () => {
    button.disabled = true;
    button.textContent = 'Cancelling …';
    try {
      await act(`/v1/jobs/${id}/cancel`);
    } catch (error) {
      const place = document.getElementById('cancel-error');
      if (place && error instanceof Error) place.textContent = error.message;
      button.disabled = false;
      button.textContent = 'Cancel';
    }
  });
}

function follow() {
  const events = new EventSource(`/run/${encodeURIComponent(id)}/events`);
  /**
   * @param {string} name
   * @param {(data: any) => void} take
   */
  const on = (name, take) =>
    events.addEventListener(name, (event) => take(JSON.parse(/** @type {MessageEvent} */ (event).data)));
  const isOpen = job.hasAttribute('data-open');

  on('state', ({ state }) => {
    if (!isOpen) return;
    live.textContent = `The job is ${state}.`;
    if (state === 'running') void renew();
  });
  on('output', ({ stream, data }) => {
    begin();
    log.add(stream, decoders[/** @type {Stream} */ (stream)].decode(fromBase64(data)));
  });
  on('truncated', ({ stream }) => {
    begin();
    log.add('note', `${stream} was cut at its limit.`);
  });
  on('usage', (sample) => usage.add(sample));
  on('end', ({ state }) => {
    events.close();
    for (const stream of /** @type {Stream[]} */ (['stdout', 'stderr'])) {
      log.add(stream, decoders[stream].decode(new Uint8Array(), true));
    }
    log.flush();
    say('');
    if (!isOpen) return;
    live.textContent = `The job has ended: ${state}.`;
    job.removeAttribute('data-open');
    void renew();
  });
  events.onopen = () => say('');
  events.onerror = () => {
    say(
      events.readyState === EventSource.CLOSED
        ? 'The worker no longer tells what happens: reload this page.'
        : 'The connection was lost; trying again …',
    );
  };
}

offerCancel();
if (job.hasAttribute('data-whole')) follow();
