// The server's routes, as any client asks them.

import { Trouble } from "./trouble.js";

const KEY = "openjanus.key";

let ownKey = stored((storage) => storage.getItem(KEY));

/** The key: of this tab; or where the browser lets no page store anything, of this page until it is left. */
export const key = {
  get: () => ownKey,
  set(value) {
    ownKey = value;
    stored((storage) => storage.setItem(KEY, value));
  },
  forget() {
    ownKey = null;
    stored((storage) => storage.removeItem(KEY));
  },
};

function stored(what) {
  try {
    return what(sessionStorage) ?? null;
  } catch (error) {
    if (error instanceof DOMException) return null; // not allowed, or no room
    throw error;
  }
}

/** The models that may be asked: `{id, drawing: {size, max_partial_images, ...}}` each. */
export async function models(signal) {
  const answer = await ask("v1/models", { signal });
  const cards = (await answer.json().catch(() => null))?.data;
  if (cards?.[0]?.drawing) return cards;
  throw new Trouble("What answers here is no server of openjanus: is there something between it and this page?");
}

/**
 * Draw; each state of each picture is an event.
 *
 * @param {object} body as of /v1/images/generations
 * @param {AbortSignal} signal ends the request, and frees its places at the server
 */
export async function* draw(body, signal) {
  yield* events("v1/images/generations", body, signal);
}

/** A reply as its pieces of text come. */
export async function* chat(body, signal) {
  let isWhole = false;
  for await (const event of events("v1/chat/completions", body, signal)) {
    const [choice] = event.choices;
    if (choice?.delta?.content) yield choice.delta.content;
    isWhole ||= Boolean(choice?.finish_reason);
  }
  if (!isWhole) throw new Trouble("The server left before the reply was whole.", { code: "lost" });
}

async function* events(path, body, signal) {
  const answer = await ask(path, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify({ ...body, stream: true }),
    signal,
  });
  for await (const data of dataLines(answer.body)) {
    if (data === "[DONE]") return;
    const event = JSON.parse(data);
    if (event.error) throw inWords(500, event.error, null);
    yield event;
  }
}

/** The data of server-sent events, each of which this server writes as one line. */
export async function* dataLines(stream) {
  const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      const lines = (rest + value).split("\n");
      rest = lines.pop();
      for (const line of lines) {
        if (line.startsWith("data: ")) yield line.slice(6);
      }
    }
  } catch (error) {
    throw lost(error);
  } finally {
    reader.cancel().catch(() => {}); // it may have ended already
  }
}

async function ask(path, options) {
  const headers = { ...options.headers };
  if (key.get() !== null) headers.authorization = `Bearer ${key.get()}`;
  let answer;
  try {
    answer = await fetch(path, { ...options, headers });
  } catch (error) {
    throw lost(error);
  }
  if (answer.ok) return answer;
  const told = await answer.json().catch(() => ({}));
  throw inWords(answer.status, told.error, answer.headers.get("retry-after"));
}

function lost(error) {
  if (error.name === "AbortError") return error;
  return new Trouble("The server cannot be reached. Is it still running?", { code: "lost" });
}

/** An error of the server as a person would say it. */
function inWords(status, error, retryAfter) {
  const code = error?.code ?? null;
  const wait = retryAfter ? ` Try again in ${retryAfter} s.` : " Try again in a moment.";
  const told = sentence(error?.message ?? `The server answered with status ${status}.`);
  const words = {
    401: "This server wants a key.",
    413: "That is too much to send at once: take a smaller picture.",
    429: `${told}${wait}`,
    503: `${told}${wait}`,
    404: code === "model_not_found" ? `${told} Reload this page.` : told,
  };
  return new Trouble(words[status] ?? told, { status, code });
}

function sentence(text) {
  const whole = text.charAt(0).toUpperCase() + text.slice(1);
  return /[.!?]$/.test(whole) ? whole : `${whole}.`;
}
