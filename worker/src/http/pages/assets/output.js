// @ts-check
// Output as text: by the rules of `text.rs`, as it comes, and no more of it than a page can carry.

/** @typedef {'stdout' | 'stderr'} Stream */

/** Characters that the page holds; the oldest go. */
const SHOWN_MAX = 1 << 20;

/** Characters of one block; blocks are what goes. */
const BLOCK_LEN = 16 << 10;

/** Between two changes of the page. */
const PAUSE_MS = 40;

/** Pixels from the end within which a reader reads the end. */
const AT_END = 32;

/**
 * Text without control characters: colours are left out, a carriage return ends a line, the others
 * are shown by their symbols.
 * @param {string} text
 */
export function shown(text) {
  return text
    .replace(/\x1b\[[0-9;:]*m/g, '')
    .replace(/\r\n?/g, '\n')
    .replace(/[\0-\x08\x0b-\x1f]/g, (c) => String.fromCharCode(0x2400 + c.charCodeAt(0)))
    .replace(/\x7f/g, '\u2421')
    .replace(/[\x80-\x9f\u202a-\u202e\u2066-\u2069]/g, (c) => `\\u{${c.charCodeAt(0).toString(16)}}`);
}

/** One stream's bytes as text; what may go on with the next piece waits for it. */
export class Decoder {
  #utf8 = new TextDecoder();
  #rest = '';

  /**
   * @param {Uint8Array} bytes
   * @param {boolean} [last]
   */
  decode(bytes, last = false) {
    const text = this.#rest + this.#utf8.decode(bytes, { stream: !last });
    const open = last ? null : /(\r|\x1b(\[[0-9;:]{0,64})?)$/.exec(text);
    this.#rest = open ? open[0] : '';
    return shown(open ? text.slice(0, open.index) : text);
  }
}

/** A log that grows at its end and stays with a reader who is there. */
export class Log {
  #log;
  #newest;
  /** @type {{ kind: string, text: string }[]} */
  #pending = [];
  #pendingLen = 0;
  #shownLen = 0;
  /** The last block of each kind. @type {Map<string, HTMLElement>} */
  #blocks = new Map();
  #left = false;
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  #timer;

  /**
   * @param {HTMLElement} log
   * @param {HTMLElement} newest a button that leads to the end
   */
  constructor(log, newest) {
    this.#log = log;
    this.#newest = newest;
    newest.addEventListener('click', () => {
      this.#toEnd();
      log.focus();
    });
    log.addEventListener('scroll', () => {
      newest.hidden = this.#isAtEnd();
    });
  }

  /**
   * @param {Stream | 'note'} kind
   * @param {string} text
   */
  add(kind, text) {
    if (text === '') return;
    this.#pending.push({ kind, text });
    this.#pendingLen += text.length;
    while (this.#pendingLen > SHOWN_MAX && this.#pending.length > 1) {
      this.#pendingLen -= this.#pending.shift()?.text.length ?? 0;
      this.#left = true;
    }
    this.#timer ??= setTimeout(() => this.flush(), PAUSE_MS);
  }

  flush() {
    clearTimeout(this.#timer);
    this.#timer = undefined;
    if (this.#pending.length === 0) return;
    const follows = this.#isAtEnd();
    for (const { kind, text } of this.#pending) this.#show(kind, text);
    this.#pending = [];
    this.#pendingLen = 0;
    this.#trim();
    if (follows) this.#toEnd();
    else this.#newest.hidden = false;
  }

  /**
   * @param {string} kind
   * @param {string} text
   */
  #show(kind, text) {
    this.#shownLen += text.length;
    const last = this.#log.lastElementChild;
    const block = this.#blocks.get(kind);
    const open = block?.isConnected ? block.firstChild : null;
    if (kind !== 'note' && open instanceof Text) {
      // What goes on with a line stands in it, whatever came between; a block ends with a line,
      // unless that is endless.
      const goesOn = !open.data.endsWith('\n') || (block === last && open.length < BLOCK_LEN);
      if (goesOn && open.length < 8 * BLOCK_LEN) {
        open.appendData(text);
        return;
      }
    }
    const fresh = document.createElement('div');
    fresh.className = kind;
    if (last?.className === kind) fresh.dataset.continued = '';
    fresh.append(text);
    this.#log.append(fresh);
    this.#blocks.set(kind, fresh);
  }

  #trim() {
    let first = this.#log.firstElementChild;
    if (this.#left && !first?.hasAttribute('data-left-out')) this.#tellLeftOut();
    while (this.#shownLen > SHOWN_MAX && this.#log.childElementCount > 2) {
      if (!this.#left) {
        this.#left = true;
        this.#tellLeftOut();
      }
      const oldest = this.#log.children[1];
      this.#shownLen -= oldest.textContent?.length ?? 0;
      oldest.remove();
    }
  }

  #tellLeftOut() {
    const note = document.createElement('div');
    note.className = 'note';
    note.dataset.leftOut = '';
    note.append('Earlier output is left out here; a saved stream has it all.');
    this.#log.prepend(note);
  }

  #isAtEnd() {
    const { scrollHeight, scrollTop, clientHeight } = this.#log;
    return scrollHeight - scrollTop - clientHeight < AT_END;
  }

  #toEnd() {
    this.#log.scrollTop = this.#log.scrollHeight;
    this.#newest.hidden = true;
  }
}

/**
 * @param {string} text
 * @returns {Uint8Array}
 */
export function fromBase64(text) {
  return Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
}
