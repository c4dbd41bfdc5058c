// Calls a handler once. Standard input is its input; standard output and error are its logs, in
// order, whatever writes them; descriptor 3 carries nothing but the answer.
'use strict';
const fs = require('fs');
const url = require('url');
const handler = process.argv.pop();
const begun = process.hrtime.bigint();

const trace = (error) => {
  const text = error instanceof Error ? String(error.stack) : `thrown: ${String(error)}`;
  // The user's frames alone: none of these lines, none of Node's own.
  const foreign = /^\s+at .*(\[eval\]|node:)/;
  return text.split('\n').filter((line) => !foreign.test(line)).join('\n');
};

const tell = (result, error) => {
  const took = Number((process.hrtime.bigint() - begun) / 1000000n);
  if (error !== null) error = error.slice(-{ERROR_LEN_MAX});
  const answer = Buffer.from('\n' + JSON.stringify({ result, error, duration_ms: took }) + '\n');
  for (let sent = 0; sent < answer.length;) sent += fs.writeSync(3, answer, sent);
  process.exit(error === null ? 0 : 1);
};

// JSON.stringify makes null of what is no JSON; that is to be told.
const strict = (key, value) => {
  if (typeof value === 'number' && !Number.isFinite(value)) throw new TypeError(`${key || 'it'} is ${value}`);
  if (typeof value === 'function' || typeof value === 'symbol') throw new TypeError(`${key || 'it'} is a ${typeof value}`);
  return value;
};

const load = async (module) => {
  const base = '/code/' + module.replace(/\./g, '/');
  const file = [base + '.js', base + '.mjs', base + '.cjs', base + '/index.js'].find((path) => fs.existsSync(path));
  if (file.endsWith('.mjs')) return import(url.pathToFileURL(file).href);
  try {
    return require(file);
  } catch (error) {
    if (error.code !== 'ERR_REQUIRE_ESM') throw error;
    return import(url.pathToFileURL(file).href);
  }
};

const call = async () => {
  const message = JSON.parse(fs.readFileSync(0, 'utf8'));
  const at = handler.lastIndexOf('.');
  const exported = await load(handler.slice(0, at));
  const name = handler.slice(at + 1);
  const found = exported[name] ?? exported.default?.[name] ?? (name === 'default' ? exported : undefined);
  if (typeof found !== 'function') return tell(null, `${handler}: the module exports no such function`);
  const returned = await found(message.event, message.context ?? {});
  let result;
  try {
    result = returned === undefined ? 'null' : JSON.stringify(returned, strict);
  } catch (error) {
    return tell(null, `the result of ${handler} is not JSON: ${error.message}`);
  }
  const length = Buffer.byteLength(result);
  if (length > {RESULT_LEN_MAX}) return tell(null, `the result of ${handler} is ${length} bytes of JSON, more than {RESULT_LEN_MAX}`);
  tell(result, null);
};

process.on('uncaughtException', (error) => tell(null, trace(error)));
call().catch((error) => tell(null, trace(error)));
