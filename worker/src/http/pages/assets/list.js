// @ts-check
// Keeps the list fresh while something in it goes on, and somebody looks.

import { refresh } from './page.js';

const EVERY_MS = 4000;

setInterval(() => {
  const goesOn = document.querySelector('#runs .badge.running, #runs .badge.waiting');
  if (goesOn && document.visibilityState === 'visible') void refresh(['runs']);
}, EVERY_MS);
