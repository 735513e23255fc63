// Prompts, from the "prompts" of model.json: what stands between roles and words is data there.

import { strip } from "./tokenizer.js";

/** What a person can put right; its message says how. */
export class Mistake extends Error {}

export class Prompts {
  constructor(data, tokenizer) {
    this.data = data;
    this.tokenizer = tokenizer;
  }

  /** Ids of a drawing's prompt: BOS, the dialogue so far, BOI. */
  draw(text) {
    const { image_mark: mark, special } = this.data;
    if (!strip(text)) throw new Mistake("Say what to draw.");
    if (text.includes(mark)) throw new Mistake("Pictures cannot be drawn from: describe them.");
    const words = this.render([{ role: "user", text }], "");
    return [special.bos, ...this.tokenizer.encode(words), special.boi];
  }

  /** What guidance leads away from: BOS, pads, BOI. */
  unconditional(length) {
    const { bos, pad, boi } = this.data.special;
    return [bos, ...Array(length - 2).fill(pad), boi];
  }

  /** Ids of the prompt of the next answer; turns end with a question. Every mark in a text becomes
   *  the slots of a picture. */
  chat(turns) {
    const { special, num_und_image_tokens: slots } = this.data;
    const question = turns[turns.length - 1].text.replaceAll(this.data.image_mark, "");
    if (!strip(question)) throw new Mistake("Write what you want to know.");
    const picture = [special.boi, ...Array(slots).fill(special.image_pad), special.eoi];
    const words = this.render(turns, this.data.system);
    const ids = this.tokenizer.encode(words);
    return [special.bos, ...ids.flatMap((id) => (id === special.image_pad ? picture : [id]))];
  }

  render(turns, system) {
    const { roles, before, after, after_system: afterSystem, forbidden } = this.data;
    let text = system ? system + afterSystem : "";
    for (const { role, text: words } of turns) {
      const found = forbidden.find((token) => words.includes(token));
      if (found) throw new Mistake(`“${found}” has a meaning of its own: take it out of the text.`);
      const content = strip(words).replaceAll(this.data.image_mark, this.data.image_token);
      text += `${roles[role]}:${before[role]}${content}${after[role]}`;
    }
    return `${text}${roles.assistant}:`;
  }
}
