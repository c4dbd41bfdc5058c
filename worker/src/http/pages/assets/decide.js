// @ts-check
// Approves and rejects: the one job of this page, or those that are chosen in the list.

import { act, element, key, refresh } from './page.js';

/** @typedef {{ id: string, digest: string }} Job */

/** @param {ParentNode} within @returns {HTMLInputElement[]} */
const boxes = (within) => [...within.querySelectorAll('input[name=job]')].map((box) => /** @type {HTMLInputElement} */ (box));

/** @param {HTMLElement} decision */
function offer(decision) {
  const reason = element('reason', HTMLTextAreaElement);
  const told = element('told', HTMLElement);
  const buttons = [element('approve', HTMLButtonElement), element('reject', HTMLButtonElement)];
  const one = decision.dataset.job !== undefined;

  /** What the reader saw: the worker decides on nothing else. @returns {Job[]} */
  const chosen = () =>
    one
      ? [{ id: decision.dataset.job ?? '', digest: decision.dataset.digest ?? '' }]
      : boxes(document)
          .filter((box) => box.checked)
          .map((box) => ({ id: box.value, digest: box.dataset.digest ?? '' }));

  function count() {
    const all = boxes(document);
    const count = all.filter((box) => box.checked).length;
    element('chosen', HTMLElement).textContent = count === 0 ? 'none chosen' : `${count} chosen`;
    const choose = element('choose-all', HTMLInputElement);
    choose.disabled = all.length === 0;
    choose.checked = count > 0 && count === all.length;
    choose.indeterminate = count > 0 && count < all.length;
    for (const button of buttons) button.disabled = count === 0;
  }

  /**
   * @param {string} id
   * @param {string} text
   * @param {boolean} done
   */
  function tell(id, text, done) {
    const entry = [...document.querySelectorAll('[data-entry]')].find(
      (entry) => entry instanceof HTMLElement && entry.dataset.entry === id,
    );
    const outcome = entry?.querySelector('.outcome');
    if (!entry || !outcome) return;
    outcome.textContent = text;
    outcome.classList.toggle('error', !done);
    if (done) entry.querySelector('.choose')?.remove();
  }

  /** @param {'approve' | 'reject'} verb */
  async function decide(verb) {
    const error = element('reason-error', HTMLElement);
    error.textContent = '';
    reason.removeAttribute('aria-invalid');
    const why = reason.value.trim();
    if (verb === 'reject' && why === '') {
      error.textContent = 'Say why: the submitter sees it.';
      reason.setAttribute('aria-invalid', 'true');
      reason.focus();
      return;
    }
    const jobs = chosen();
    const word = verb === 'approve' ? 'Approved' : 'Rejected';
    let done = 0;
    let refused = '';
    for (const button of buttons) button.disabled = true;
    for (const { id, digest } of jobs) {
      told.textContent = `${done + 1} of ${jobs.length} …`;
      try {
        const all = decision.hasAttribute('data-all') ? '?all=true' : '';
        await act(`/v1/jobs/${encodeURIComponent(id)}/${verb}${all}`, { reason: why, digest });
        done += 1;
        tell(id, `${word}.`, true);
      } catch (error) {
        refused = error instanceof Error ? error.message : String(error);
        tell(id, refused, false);
      }
    }
    if (one) {
      told.textContent = refused;
      for (const button of buttons) button.disabled = false;
      if (done > 0) await refresh(['summary', 'deciding'], true);
      return;
    }
    const left = jobs.length - done;
    told.textContent = `${word}: ${done} of ${jobs.length}.` + (left > 0 ? ' What the worker said stands at the others.' : '');
    if (left === 0) reason.value = '';
    count();
    if (buttons[0].disabled) told.focus();
  }

  if (!one) {
    for (const label of document.querySelectorAll('.choose')) label.removeAttribute('hidden');
    element('choose-all', HTMLInputElement).addEventListener('change', (event) => {
      for (const box of boxes(document)) box.checked = /** @type {HTMLInputElement} */ (event.target).checked;
      count();
    });
    for (const box of boxes(document)) box.addEventListener('change', count);
    count();
  }
  buttons[0].addEventListener('click', () => decide('approve'));
  buttons[1].addEventListener('click', () => decide('reject'));
  decision.hidden = false;
  element('no-decision', HTMLElement).hidden = true;
}

const decision = document.getElementById('decision');
if (decision && key() !== null) offer(decision);
