// @ts-check
// What every page does: tells times as the reader's clock does, signs out, and speaks to the worker.

const KEY = 'sway-key';

/** The secret that sign-in told: what changes something needs it beside the cookie. */
export function key() {
  try {
    return localStorage.getItem(KEY);
  } catch {
    return null;
  }
}

/** @param {string | null} value */
export function keep(value) {
  try {
    if (value === null) localStorage.removeItem(KEY);
    else localStorage.setItem(KEY, value);
  } catch {
    // Without storage the pages are there to be read.
  }
}

/**
 * An element that the page has.
 * @template {HTMLElement} T
 * @param {string} id
 * @param {new () => T} kind
 * @returns {T}
 */
export function element(id, kind) {
  const found = document.getElementById(id);
  if (!(found instanceof kind)) throw new Error(`the page has no ${id}`);
  return found;
}

/** What the worker refused, in its words. */
export class Refusal extends Error {
  /**
   * @param {string} message
   * @param {string} [field] of the request
   * @param {string} [code]
   */
  constructor(message, field, code) {
    super(message);
    this.field = field;
    this.code = code;
  }
}

/**
 * Has the worker do something.
 * @param {string} path
 * @param {unknown} [body]
 * @returns {Promise<any>}
 */
export async function act(path, body) {
  /** @type {Record<string, string>} */
  const headers = { 'x-sway-page': key() ?? '' };
  if (body !== undefined) headers['content-type'] = 'application/json';
  let answer;
  try {
    answer = await fetch(path, {
      method: 'POST',
      headers,
      body: body === undefined ? undefined : JSON.stringify(body),
    });
  } catch {
    throw new Refusal('The worker can’t be reached.');
  }
  const told = await answer.json().catch(() => ({}));
  if (answer.ok) return told;
  if (answer.status === 401) throw new Refusal('Sign in again: this browser’s key is gone or too old.');
  const error = told.error ?? {};
  const text = [error.message ?? `The worker answered ${answer.status}`, error.hint];
  // Which field a malformed one is, only the message tells.
  const field = error.field ?? /target type: ([a-z_.]+): /.exec(error.message ?? '')?.[1];
  throw new Refusal(text.filter(Boolean).join(' – '), field, error.code);
}

/**
 * Replaces parts of this page by what the worker makes of them now.
 * @param {string[]} ids
 * @param {boolean} [disturb] also where the reader's focus is within
 * @returns {Promise<void>}
 */
export function refresh(ids, disturb = false) {
  return new Promise((resolve) => {
    const request = new XMLHttpRequest();
    request.open('GET', location.pathname + location.search);
    request.setRequestHeader('accept', 'text/html');
    // Parsed without running or loading anything.
    request.responseType = 'document';
    request.timeout = 10_000;
    request.onloadend = () => {
      for (const id of request.status === 200 ? ids : []) {
        const fresh = request.responseXML?.getElementById(id);
        const old = document.getElementById(id);
        if (!fresh || !old) continue;
        const focused = old.contains(document.activeElement);
        if (focused && !disturb) continue;
        old.replaceWith(document.adoptNode(fresh));
        tellTimes(fresh);
        if (focused) {
          fresh.tabIndex = -1;
          fresh.focus();
        }
      }
      resolve();
    };
    request.send();
  });
}

const RELATIVE = new Intl.RelativeTimeFormat('en', { numeric: 'auto', style: 'long' });
const ABSOLUTE = new Intl.DateTimeFormat('en', { dateStyle: 'medium', timeStyle: 'short' });

/** @param {Date} time */
function told(time) {
  const seconds = Math.round((time.getTime() - Date.now()) / 1000);
  const age = Math.abs(seconds);
  if (age < 60) return RELATIVE.format(seconds, 'second');
  if (age < 3600) return RELATIVE.format(Math.round(seconds / 60), 'minute');
  if (age < 86_400) return RELATIVE.format(Math.round(seconds / 3600), 'hour');
  return ABSOLUTE.format(time);
}

/** @param {ParentNode} [within] */
export function tellTimes(within = document) {
  for (const element of within.querySelectorAll('time')) {
    const time = new Date(element.dateTime);
    if (Number.isNaN(time.getTime())) continue;
    element.title ||= element.textContent ?? '';
    element.textContent = told(time);
  }
}

tellTimes();
setInterval(tellTimes, 20_000);

const signOut = document.getElementById('sign-out');
if (signOut) {
  signOut.hidden = false;
  signOut.addEventListener('click', async () => {
    await fetch('/logout', { method: 'POST', headers: { 'x-sway-page': key() ?? '' } });
    keep(null);
    location.assign('/');
  });
}
