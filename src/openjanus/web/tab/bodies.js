// Bodies of requests, those of the server's routes, to what the model takes; checked as there.

import { Mistake } from "./prompts.js";
import { strip } from "./tokenizer.js";

export const MOST_PICTURES = 9;
const MAX_SEED = 2n ** 64n - 1n;
const MOST_WORDS = 512; // tokens of a reply where nothing is said, as in Python
const SAMPLING = ["model", "stream", "seed", "temperature", "top_k", "top_p"];
const DRAWING = [...SAMPLING, "prompt", "n", "guidance_scale", "negative_prompt", "partial_images"];
const TALK = [...SAMPLING, "messages", "max_tokens", "max_completion_tokens"];

/**
 * What is drawn, and how; every row of a picture is shown, whatever `partial_images` says.
 *
 * @param {object} body as of /v1/images/generations
 * @param {{guidance_scale: number, temperature: number}} own what the model does where nothing is said
 */
export function drawingOf(body, own) {
  checkKeys(body, DRAWING);
  const isCount = (n) => Number.isSafeInteger(n) && n >= 1 && n <= MOST_PICTURES;
  if (typeof body.prompt !== "string") throw new Mistake(`prompt must be a text, got ${told(body.prompt)}.`);
  const options = {
    prompt: body.prompt,
    negative: body.negative_prompt ?? null,
    n: checked(body, "n", 1, isCount, `a whole number from 1 to ${MOST_PICTURES}`),
    guidance: checked(body, "guidance_scale", own.guidance_scale, Number.isFinite, "a number"),
    ...samplingOf(body, own.temperature),
  };
  if (options.negative !== null && options.guidance === 1) {
    throw new Mistake("What is to be avoided does nothing at guidance 1: raise it, or leave it out.");
  }
  return options;
}

/**
 * Turns of a talk, their pictures apart, and how to answer.
 *
 * @param {object} body as of /v1/chat/completions
 */
export async function talkOf(body) {
  checkKeys(body, TALK);
  if (!Array.isArray(body.messages)) throw new Mistake(`messages must be a list, got ${told(body.messages)}.`);
  const system = [];
  const turns = [];
  const pictures = [];
  for (const { role, content } of body.messages) {
    const parts = typeof content === "string" ? [{ type: "text", text: content }] : (content ?? []);
    const shown = parts.filter((part) => part.type === "image_url");
    const text = parts.filter((part) => part.type === "text").map((part) => part.text).join("\n");
    const isSystem = role === "system" || role === "developer";
    if (!isSystem && role !== "user" && role !== "assistant") {
      throw new Mistake(`A role is system, user or assistant, got ${told(role)}.`);
    }
    if (shown.length > 0 && role !== "user") throw new Mistake("Pictures belong into messages of the user.");
    if (isSystem && turns.length > 0) throw new Mistake("A system message must come before all others.");
    if (isSystem) system.push(text);
    else if (role === "user" || strip(text)) turns.push({ role, text, pictures: shown.length }); // a reply may be empty
    for (const part of shown) pictures.push(await pictureOf(part));
  }
  const isCount = (n) => Number.isSafeInteger(n) && n >= 1;
  const limit = checked(body, "max_tokens", MOST_WORDS, isCount, "a whole number from 1 on");
  return {
    turns,
    pictures,
    system: system.length === 0 ? null : system.join("\n\n"),
    maxTokens: checked(body, "max_completion_tokens", limit, isCount, "a whole number from 1 on"),
    ...samplingOf(body, 0),
  };
}

async function pictureOf(part) {
  try {
    return await (await fetch(part.image_url.url)).blob();
  } catch {
    throw new Mistake("A picture's url must read data:image/png;base64,...");
  }
}

function samplingOf(body, temperature) {
  const isWhole = (k) => k === null || (Number.isSafeInteger(k) && k >= 1);
  const isShare = (p) => p === null || (p >= 0 && p <= 1);
  const isWarm = (t) => Number.isFinite(t) && t >= 0;
  return {
    seed: seedOf(body.seed),
    temperature: checked(body, "temperature", temperature, isWarm, "0 or more"),
    topK: checked(body, "top_k", null, isWhole, "a whole number from 1 on"),
    topP: checked(body, "top_p", null, isShare, "from 0 to 1"),
  };
}

/** A seed that is a number past 2**53 may be none that anybody wrote: give a BigInt instead. */
function seedOf(seed) {
  if (seed === undefined || seed === null) return BigInt(crypto.getRandomValues(new Uint32Array(1))[0]);
  const isWhole = typeof seed === "bigint" ? seed <= MAX_SEED : Number.isSafeInteger(seed);
  if (!isWhole || seed < 0) {
    throw new Mistake(`seed must be a whole number from 0 to ${Number.MAX_SAFE_INTEGER}, got ${told(seed)}.`);
  }
  return BigInt(seed);
}

function checked(body, name, otherwise, isRight, rule) {
  const value = body[name] ?? otherwise;
  if (!isRight(value)) throw new Mistake(`${name} must be ${rule}, got ${told(value)}.`);
  return value;
}

function checkKeys(body, known) {
  const other = Object.keys(body).find((key) => !known.includes(key));
  if (other !== undefined) throw new Mistake(`${other} is not known in a tab: it takes ${known.join(", ")}.`);
}

const told = (value) => (typeof value === "string" ? `“${value}”` : String(value));
