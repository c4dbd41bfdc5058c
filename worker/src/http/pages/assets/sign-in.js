// @ts-check
// Signs in without leaving the page, and keeps the key that lets the page run something.

import { element, keep } from './page.js';

const form = element('sign-in', HTMLFormElement);
const token = element('token', HTMLInputElement);
const error = element('token-error', HTMLElement);

form.addEventListener('submit', async (event) => {
  event.preventDefault();
  error.textContent = '';
  const fields = new URLSearchParams();
  for (const [name, value] of new FormData(form)) fields.set(name, String(value));
  try {
    const answer = await fetch(form.action, {
      method: 'POST',
      headers: { accept: 'application/json' },
      body: fields,
    });
    const told = await answer.json();
    if (answer.ok) {
      keep(told.key);
      location.assign(told.next);
      return;
    }
    error.textContent = told.error.message;
  } catch {
    error.textContent = 'The worker can’t be reached.';
  }
  token.setAttribute('aria-invalid', 'true');
  token.focus();
  token.select();
});
