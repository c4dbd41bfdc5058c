// @ts-check
// Memory and CPU over time, drawn as they are told.

/** Points of a line; where there are more, neighbours become one. */
const POINTS_MAX = 400;

const WIDTH = 600;
const HEIGHT = 100;
const SVG = 'http://www.w3.org/2000/svg';

/** @param {number} bytes */
function size(bytes) {
  const units = ['B', 'KiB', 'MiB', 'GiB'];
  let unit = 0;
  while (bytes >= 1024 && unit + 1 < units.length) {
    bytes /= 1024;
    unit += 1;
  }
  return `${unit === 0 || bytes >= 10 ? Math.floor(bytes) : bytes.toFixed(1)} ${units[unit]}`;
}

/** @typedef {{ at: number, value: number }} Point */

class Line {
  #chart;
  /** @type {Point[]} */
  #points = [];
  #area = document.createElementNS(SVG, 'path');
  #line = document.createElementNS(SVG, 'path');

  /** @param {Element} chart */
  constructor(chart) {
    this.#chart = chart;
    this.#area.setAttribute('class', 'area');
    this.#line.setAttribute('class', 'line');
    chart.append(this.#area, this.#line);
  }

  get peak() {
    return this.#points.reduce((most, { value }) => Math.max(most, value), 0);
  }

  /**
   * @param {number} at
   * @param {number} value
   */
  add(at, value) {
    this.#points.push({ at, value });
    if (this.#points.length > POINTS_MAX) {
      this.#points = this.#points.reduce((kept, point, n) => {
        if (n % 2 === 0) kept.push(point);
        else kept[kept.length - 1] = { at: point.at, value: Math.max(point.value, kept[kept.length - 1].value) };
        return kept;
      }, /** @type {Point[]} */ ([]));
    }
  }

  /** @param {string} label */
  draw(label) {
    const end = Math.max(this.#points.at(-1)?.at ?? 0, 1);
    const top = Math.max(this.peak * 1.15, Number.MIN_VALUE);
    const places = this.#points.map(({ at, value }) => {
      const x = (at / end) * WIDTH;
      const y = HEIGHT - (value / top) * HEIGHT;
      return `${x.toFixed(1)} ${y.toFixed(1)}`;
    });
    const line = `M${places.join('L')}`;
    this.#line.setAttribute('d', line);
    const first = ((this.#points[0]?.at ?? 0) / end) * WIDTH;
    this.#area.setAttribute('d', `${line}L${WIDTH} ${HEIGHT}L${first.toFixed(1)} ${HEIGHT}Z`);
    this.#chart.setAttribute('aria-label', label);
  }
}

/** The two charts of a page, hidden until there is a line to draw. */
export class Usage {
  #section;
  #memory;
  #cpu;
  /** @type {{ elapsed: number, cpu: number } | undefined} */
  #last;

  /** @param {HTMLElement} section */
  constructor(section) {
    this.#section = section;
    this.#memory = new Line(/** @type {Element} */ (section.querySelector('#memory-chart')));
    this.#cpu = new Line(/** @type {Element} */ (section.querySelector('#cpu-chart')));
  }

  /** @param {{ elapsed_ms: number, memory_bytes: number, cpu_ms: number }} sample */
  add({ elapsed_ms, memory_bytes, cpu_ms }) {
    const isFirst = this.#last === undefined;
    const { elapsed, cpu } = this.#last ?? { elapsed: 0, cpu: 0 };
    if (elapsed_ms <= elapsed) return;
    this.#last = { elapsed: elapsed_ms, cpu: cpu_ms };
    const cores = Math.max(cpu_ms - cpu, 0) / (elapsed_ms - elapsed);
    if (isFirst) this.#cpu.add(0, cores);
    this.#memory.add(elapsed_ms, memory_bytes);
    this.#cpu.add(elapsed_ms, cores);
    const limit = Number(this.#section.dataset.memory);
    const memory = `${size(memory_bytes)}, peak ${size(this.#memory.peak)}${limit ? ` of ${size(limit)}` : ''}`;
    const cpus = Number(this.#section.dataset.cpusMilli) / 1000;
    const used = `${cores.toFixed(2)}${cpus ? ` of ${cpus}` : ''} cores, ${(cpu_ms / 1000).toFixed(1)} s in all`;
    this.#text('usage-memory', memory);
    this.#text('usage-cpu', used);
    // One sample is no line.
    this.#section.hidden = isFirst;
    this.#memory.draw(`Memory over time: ${memory}`);
    this.#cpu.draw(`CPU over time: ${used}`);
  }

  /**
   * @param {string} id
   * @param {string} text
   */
  #text(id, text) {
    const place = this.#section.querySelector(`#${id}`);
    if (place) place.textContent = text;
  }
}
