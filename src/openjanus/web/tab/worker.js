// The model at work, beside the page: it opens its files, then draws and answers, one after another.
//
// It is sent {id, kind: "draw" | "chat", body} and {stop: id}, and says {id, event}, {id, done: true}
// or {id, error: {message, isMistake}}; of its opening {opened: bytes, of: bytes}, {ready: true} or
// {broken: message}.
//
// A file is asked for by name and digest: a browser may keep it for ever, and never takes one of
// another model, which lay at this address before, in its place.

import { drawingOf, talkOf } from "./bodies.js";
import { Model } from "./model.js";
import { Mistake } from "./prompts.js";

const FOLDER = new URL("../model/", import.meta.url);
const GREY = "rgb(127 127 127)";

const asked = new Map(); // by id, whether it is to be stopped
let facts;
const opening = open();
let last = opening.catch(() => {}); // what is being done: it never fails, or the next would not begin

addEventListener("message", ({ data }) => {
  if (data.stop === undefined) {
    asked.set(data.id, false);
    last = last.then(() => work(data));
  } else if (asked.has(data.stop)) {
    asked.set(data.stop, true);
  }
});

async function open() {
  try {
    facts = JSON.parse(new TextDecoder().decode(await read("model.json", { cache: "no-store" })));
    const total = Object.values(facts.bytes).reduce((a, b) => a + b);
    let opened = 0;
    const model = await Model.open(facts, (name) =>
      read(`${name}?${facts.digests[name]}`, {}, (count) => postMessage({ opened: (opened += count), of: total })));
    postMessage({ ready: true });
    return model;
  } catch (error) {
    postMessage({ broken: error.message });
    throw error;
  }
}

async function read(path, how, tell = () => {}) {
  const [name] = path.split("?");
  const answer = await fetch(new URL(path, FOLDER), how);
  if (!answer.ok) throw new Error(`model/${name} is missing (status ${answer.status}): export the page again.`);
  const parts = [];
  for (const reader = answer.body.getReader(); ; ) {
    const { done, value } = await reader.read().catch(() => {
      throw new Error(`model/${name} did not come whole: reload the page.`);
    });
    if (done) break;
    parts.push(value);
    tell(value.length);
  }
  return new Uint8Array(await new Blob(parts).arrayBuffer());
}

async function work({ id, kind, body }) {
  try {
    const model = await opening;
    const events = kind === "draw" ? draw(model, drawingOf(body, facts.drawing)) : model.chat(await talkOf(body));
    while (!asked.get(id)) {
      const { done, value } = await events.next();
      if (done) break;
      if (value) postMessage({ id, event: value });
      await breath();
    }
    postMessage({ id, done: true });
  } catch (error) {
    const isMistake = error instanceof Mistake;
    if (!isMistake) console.error(error);
    postMessage({ id, error: { message: error.message, isMistake } });
  } finally {
    asked.delete(id);
  }
}

/** States of pictures, as the server's routes tell of them; nothing, between them, for each id. */
async function* draw(model, { n, ...options }) {
  const size = model.sizes.gen_image_size;
  for (let index = 0; index < n; index++) {
    const about = { image_index: index, seed: plain(options.seed) };
    const ids = [];
    const bands = [...model.bands];
    const context = new OffscreenCanvas(size, size).getContext("2d");
    context.fillStyle = GREY;
    context.fillRect(0, 0, size, size);
    for await (const one of model.draw({ ...options, index })) {
      ids.push(one);
      yield null;
      if (bands.length > 0 && ids.length === bands[0].end * model.sizes.grid_size) {
        const { canvas, y } = await model.decodeBand(bands[0], ids);
        context.drawImage(canvas, 0, y);
        const partial_image_index = model.bands.length - bands.length;
        bands.shift();
        yield { type: "image_generation.partial_image", ...about, partial_image_index, b64_json: await png(context) };
      }
    }
    context.putImageData(await model.decode(ids), 0, 0);
    yield { type: "image_generation.completed", ...about, image_ids: ids, b64_json: await png(context) };
  }
}

/** A seed as a number, or where that would be another one as digits. */
const plain = (seed) => (seed <= BigInt(Number.MAX_SAFE_INTEGER) ? Number(seed) : `${seed}`);

/** A canvas as a PNG in base64. */
async function png(context) {
  const bytes = new Uint8Array(await (await context.canvas.convertToBlob()).arrayBuffer());
  return btoa(Array.from(bytes, (byte) => String.fromCharCode(byte)).join(""));
}

/** Let messages in. */
function breath() {
  return new Promise((resolve) => {
    const { port1, port2 } = new MessageChannel();
    port1.onmessage = () => {
      port1.close();
      resolve();
    };
    port2.postMessage(null);
  });
}
