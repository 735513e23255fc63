// What the page asks, answered in this tab: the server's own api.js has the same names.

import { MOST_PICTURES } from "../tab/bodies.js";
import { Trouble } from "./trouble.js";

/** Nobody needs one here. */
export const key = { get: () => null, set: () => {}, forget: () => {} };

/** Answers to what was sent to the worker, by id. */
class Desk {
  #worker = new Worker(new URL("../tab/worker.js", import.meta.url), { type: "module" });
  #waiting = new Map();
  #broken = null;
  #next = 0;

  constructor() {
    this.#worker.onmessage = ({ data }) => this.#take(data);
    this.#worker.onerror = (event) => {
      event.preventDefault();
      this.#breakDown(event.message ?? "a file of this page is missing: export it again.");
    };
  }

  /** What the worker says to a request, until it is done. */
  async *ask(kind, body, signal) {
    if (this.#broken !== null) throw new Trouble(this.#broken);
    const id = this.#next++;
    const said = [];
    let isOver = false;
    let wake;
    this.#waiting.set(id, (one) => {
      said.push(one);
      wake?.();
    });
    const stop = () => wake?.();
    signal?.addEventListener("abort", stop);
    this.#worker.postMessage({ id, kind, body });
    try {
      for (;;) {
        while (said.length === 0 && !signal?.aborted) await new Promise((resolve) => (wake = resolve));
        if (signal?.aborted) throw new DOMException("stopped", "AbortError");
        const { event, done, error } = said.shift();
        isOver = done || error !== undefined;
        if (done) return;
        if (error) throw new Trouble(error.isMistake ? error.message : `Something broke in this tab: ${error.message}. Reload the page.`);
        yield event;
      }
    } finally {
      signal?.removeEventListener("abort", stop);
      this.#waiting.delete(id);
      if (!isOver) this.#worker.postMessage({ stop: id });
    }
  }

  #take(data) {
    if (data.id !== undefined) this.#waiting.get(data.id)?.(data);
    else if (data.opened !== undefined) tell("Loading the model", { detail: `: ${megabytes(data.opened)} of ${megabytes(data.of)} MB` });
    else if (data.ready) tell(null);
    else this.#breakDown(data.broken);
  }

  #breakDown(message) {
    this.#broken ??= `The model cannot run in this tab: ${message}`;
    tell(this.#broken, { isError: true });
    for (const hear of this.#waiting.values()) hear({ error: { message: this.#broken, isMistake: true } });
  }
}

const desk = new Desk();

/** The one model of this page: `{id, drawing: {size, max_partial_images, ...}}`. */
export async function models() {
  const answer = await fetch(new URL("../model/model.json", import.meta.url), { cache: "no-store" }).catch(() => {
    throw new Trouble("The model cannot be loaded: is the file server still running?");
  });
  if (!answer.ok) throw new Trouble("model/model.json is missing: export the page again.");
  const { name, sizes, drawing, bands } = await answer.json();
  const size = `${sizes.gen_image_size}x${sizes.gen_image_size}`;
  return [{ id: name, drawing: { ...drawing, size, max_partial_images: bands.length, max_n: MOST_PICTURES } }];
}

/** Draw; each state of each picture is an event, and the last of each has its `image_ids`. */
export async function* draw(body, signal) {
  yield* desk.ask("draw", body, signal);
}

/** A reply as its pieces of text come. */
export async function* chat(body, signal) {
  yield* desk.ask("chat", body, signal);
}

/** Say how the model is doing, above the page; null when there is nothing to say. A detail, which
 *  changes all the time, is for who looks: read out each time it would never end. */
function tell(text, { detail = "", isError = false } = {}) {
  const place = document.getElementById("tab-state");
  if (place === null) return;
  place.hidden = text === null;
  place.classList.toggle("error", isError);
  if (place.firstChild?.nodeValue !== text) {
    const seen = Object.assign(document.createElement("span"), { ariaHidden: "true" });
    place.replaceChildren(text ?? "", seen);
  }
  place.lastChild.textContent = detail;
}

const megabytes = (count) => (count / 1e6).toFixed(0);
