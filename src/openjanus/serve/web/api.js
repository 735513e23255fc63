// The server's routes, as any client asks them.

const KEY = "openjanus.key";

/** What the server, or the way to it, says is wrong; `message` is for people. */
export class Trouble extends Error {
  constructor(message, { status = 0, code = null } = {}) {
    super(message);
    this.status = status;
    this.code = code;
  }
}

export const key = {
  get: () => sessionStorage.getItem(KEY),
  set: (value) => sessionStorage.setItem(KEY, value),
  forget: () => sessionStorage.removeItem(KEY),
};

/** The models that may be asked: `{id, drawing: {size, max_partial_images, ...}}` each. */
export async function models(signal) {
  const answer = await ask("v1/models", { signal });
  return (await answer.json()).data;
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
  for await (const event of events("v1/chat/completions", body, signal)) {
    const text = event.choices[0]?.delta?.content;
    if (text) yield text;
  }
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
    429: `Too many requests with this key.${wait}`,
    503: `${told}${wait}`,
  };
  return new Trouble(words[status] ?? told, { status, code });
}

function sentence(text) {
  const whole = text.charAt(0).toUpperCase() + text.slice(1);
  return /[.!?]$/.test(whole) ? whole : `${whole}.`;
}
