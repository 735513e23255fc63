// Prompts, from "prompts" of model.json: what stands between roles and words is data there.

import { strip } from "./tokenizer.js";

/** What a person can put right; its message says how. */
export class Mistake extends Error {}

export class Prompts {
  #data;
  #tokenizer;

  constructor(data, tokenizer) {
    this.#data = data;
    this.#tokenizer = tokenizer;
  }

  /** Ids of a prompt to draw: BOS, a dialogue that an answer is to end, BOI. */
  draw(text) {
    const { special } = this.#data;
    if (!strip(text)) throw new Mistake("Say first what to draw.");
    const words = this.#render([{ role: "user", text, pictures: 0 }], "");
    return [special.bos, ...this.#tokenizer.encode(words), special.boi];
  }

  /** What guidance leads away from: BOS, pads, BOI. */
  unconditional(length) {
    const { bos, pad, boi } = this.#data.special;
    return [bos, ...Array(length - 2).fill(pad), boi];
  }

  /**
   * Ids of the prompt of the next answer; each picture is a run of placeholders.
   *
   * @param {{role: string, text: string, pictures: number}[]} turns end with a question; a turn's
   *   pictures stand before its text
   * @param {string | null} system what to say before them; null is the model's own, "" is nothing
   */
  chat(turns, system) {
    const { special, num_und_image_tokens: slots, system: own } = this.#data;
    const last = turns[turns.length - 1];
    if (last?.role !== "user" || !strip(last.text)) throw new Mistake("Write a question first.");
    const picture = [special.boi, ...Array(slots).fill(special.image_pad), special.eoi];
    const said = system === null ? own : strip(this.#checked(system));
    const ids = this.#tokenizer.encode(this.#render(turns, said));
    return [special.bos, ...ids.flatMap((id) => (id === special.image_pad ? picture : [id]))];
  }

  #render(turns, system) {
    const { roles, before, after, after_system: afterSystem, image_token: mark } = this.#data;
    const text = turns.map(({ role, text: words, pictures }) => {
      const content = strip(`${mark}\n`.repeat(pictures) + this.#checked(words));
      return `${roles[role]}:${before[role]}${content}${after[role]}`;
    });
    return `${system ? system + afterSystem : ""}${text.join("")}${roles.assistant}:`;
  }

  /** A special token spelt out in a text would become a real one. */
  #checked(text) {
    const found = this.#data.reserved.find((token) => text.includes(token));
    if (found === undefined) return text;
    throw new Mistake(`“${found}” has a meaning of its own: take it out of the text.`);
  }
}
