// Frame around the views: token dialog, banner, colors, and the hint for a first visit.

import { button, el } from './dom.js';

const THEME = 'kanserve-theme';
const HINT = 'kanserve-hint';
const $ = (id) => document.getElementById(id);

/** Shows a message above the view, and a button that shows the current state. */
export function banner(text, again) {
  $('banner').replaceChildren(el('span', {}, text), button('Show current state', again));
  $('banner').hidden = false;
}

/** Resolves to the token that the user enters, or to ''. */
export function requestToken(why) {
  const dialog = $('token');
  const before = document.activeElement;
  $('token-why').textContent = why;
  $('token-value').value = '';
  dialog.returnValue = '';
  dialog.showModal();
  $('token-value').focus();
  return new Promise((resolve) => {
    dialog.addEventListener('close', () => {
      before?.focus?.();
      const token = dialog.returnValue === 'ok' ? $('token-value').value.trim() : '';
      $('token-value').value = '';
      resolve(token);
    }, { once: true });
  });
}

/** Follows the colors of the user's system until the user chooses. */
export function followTheme() {
  const dark = matchMedia('(prefers-color-scheme: dark)');
  const apply = () => {
    const now = localStorage.getItem(THEME) ?? (dark.matches ? 'dark' : 'light');
    const other = now === 'dark' ? 'Light' : 'Dark';
    document.documentElement.dataset.theme = now;
    $('theme').textContent = other;
    $('theme').setAttribute('aria-label', `${other} colors`);
    document.dispatchEvent(new CustomEvent('kanserve:theme')); // views with a canvas draw it again
  };
  dark.addEventListener('change', apply);
  $('theme').addEventListener('click', () => {
    localStorage.setItem(THEME, document.documentElement.dataset.theme === 'dark' ? 'light' : 'dark');
    apply();
  });
  apply();
}

/** Shows what an edge is until the user closes the hint. The button Help opens it again. */
export function offerHint() {
  const show = (shown) => {
    $('hint').hidden = !shown;
    $('help').setAttribute('aria-expanded', String(shown));
  };
  const close = () => {
    localStorage.setItem(HINT, 'closed');
    show(false);
  };
  $('help').addEventListener('click', () => ($('hint').hidden ? show(true) : close()));
  $('hint-close').addEventListener('click', () => { close(); $('help').focus(); });
  show(localStorage.getItem(HINT) !== 'closed');
}
