// A Janus of ONNX graphs: words in, ids out. One decoder for both faces; each has its own way in and
// its own head. What goes in and out of each graph is told in Python's web/graphs.py.

import * as ort from "../runtime/ort.js";
import { gumbelNoise, streamKey } from "./noise.js";
import { openPicture, pixelValues, toImageData } from "./pictures.js";
import { Mistake, Prompts } from "./prompts.js";
import { guide, sample } from "./sampling.js";
import { TextStream, Tokenizer } from "./tokenizer.js";

/** Keys and values of some rows of equally many tokens: a token's lie together. */
class Cache {
  #data;
  #dims;
  #stride;
  length = 0;

  constructor(sizes, rows, capacity) {
    this.#dims = [sizes.num_hidden_layers, 2, rows, sizes.num_key_value_heads, sizes.head_size];
    this.#stride = this.#dims.reduce((a, b) => a * b);
    this.#data = new Float32Array(capacity * this.#stride);
  }

  get past() {
    const data = this.#data.subarray(0, this.length * this.#stride);
    return new ort.Tensor("float32", data, [this.length, ...this.#dims]);
  }

  put(data) {
    this.#data.set(data, this.length * this.#stride);
    this.length += data.length / this.#stride;
  }
}

export class Model {
  #sessions = {};

  /** @param facts model.json @param {(name: string) => Promise<Uint8Array>} read a file beside it */
  static async open(facts, read) {
    ort.env.wasm.numThreads = 1; // more need headers that a plain file server does not send
    ort.env.wasm.wasmPaths = { wasm: new URL("../runtime/ort.wasm", import.meta.url).href };
    const model = new Model();
    model.sizes = facts.sizes;
    model.bands = facts.bands;
    model.picture = facts.picture;
    model.tokenizer = new Tokenizer(facts.tokenizer);
    model.prompts = new Prompts(facts.prompts, model.tokenizer);
    model.eos = facts.prompts.special.eos;
    model.imagePad = facts.prompts.special.image_pad;
    const externalData = [];
    for (const path of facts.weights) {
      const data = await read(path);
      if (data.length > 0) externalData.push({ path, data: path.endsWith(".bf16") ? widened(data) : data });
    }
    for (const name of facts.graphs) {
      const graph = await read(`${name}.onnx`);
      model.#sessions[name] = await ort.InferenceSession.create(graph, {
        executionProviders: ["wasm"],
        externalData,
      });
    }
    return model;
  }

  /** Run a graph: tensors by the names of its inputs to tensors by the names of its outputs. */
  async run(name, inputs) {
    const fed = Object.entries(inputs).map(([key, value]) => [`${name}.${key}`, value]);
    const found = await this.#sessions[name].run(Object.fromEntries(fed));
    const named = Object.entries(found).map(([key, value]) => [key.slice(name.length + 1), value]);
    return Object.fromEntries(named);
  }

  /**
   * Draw a picture; each of its ids as it comes.
   *
   * @param {{prompt: string, seed: bigint, index: number, guidance: number, temperature: number,
   *   negative: string | null, topK: number | null, topP: number | null}} options
   */
  async *draw({ prompt, seed, index, guidance, negative, ...sampling }) {
    const { num_gen_image_tokens: count, codebook_size: size } = this.sizes;
    const cond = this.prompts.draw(prompt);
    const prompts = [cond];
    if (guidance !== 1) {
      prompts.push(negative === null ? this.prompts.unconditional(cond.length) : this.prompts.draw(negative));
    }
    // Rows of one cache are equally long; a negative prompt may be of another length.
    const isOne = prompts.every((ids) => ids.length === cond.length);
    const groups = (isOne ? [prompts] : prompts.map((ids) => [ids])).map((rows) => ({
      rows,
      cache: this.#cache(rows.length, rows[0].length, count, count),
    }));
    const key = streamKey(seed, index);
    let hidden = [];
    for (const { rows, cache } of groups) {
      hidden.push(await this.#step(cache, await this.#embed("embed_text", "input_ids", rows)));
    }
    for (let position = 0; position < count; position++) {
      const logits = [];
      for (const states of hidden) logits.push(...(await this.#logits("image_logits", states)));
      const [l, u] = logits;
      const noise = sampling.temperature === 0 ? null : gumbelNoise(key, position, size);
      const id = sample(u === undefined ? l : guide(l, u, guidance), noise, sampling);
      yield id;
      if (position + 1 === count) return; // the last of them is never fed in
      hidden = [];
      for (const { rows, cache } of groups) {
        const embeds = await this.#embed("embed_gen", "image_ids", rows.map(() => [id]));
        hidden.push(await this.#step(cache, embeds));
      }
    }
  }

  /**
   * Answer; text as it comes.
   *
   * @param {{turns: {role: string, text: string, pictures: number}[], pictures: Blob[],
   *   system: string | null, seed: bigint, maxTokens: number, temperature: number,
   *   topK: number | null, topP: number | null}} options
   */
  async *chat({ turns, pictures, system, seed, maxTokens, ...sampling }) {
    const { context, text_vocab_size: size } = this.sizes;
    const ids = this.prompts.chat(turns, system);
    const most = Math.min(maxTokens, Math.max(context - ids.length, 1));
    const cache = this.#cache(1, ids.length, most, 1);
    const embeds = await this.#embed("embed_text", "input_ids", [ids]);
    await this.#putPictures(embeds, ids, pictures);
    let hidden = await this.#step(cache, embeds);
    const key = streamKey(seed, 0);
    const stream = new TextStream(this.tokenizer);
    for (let position = 0; position < most; position++) {
      const [logits] = await this.#logits("text_logits", hidden);
      const noise = sampling.temperature === 0 ? null : gumbelNoise(key, position, size);
      const id = sample(logits, noise, sampling);
      yield stream.push(id);
      if (id === this.eos || position + 1 === most) break;
      hidden = await this.#step(cache, await this.#embed("embed_text", "input_ids", [[id]]));
    }
    yield stream.finish();
  }

  /** The pixels that one of "bands" shows anew, of the first ids of a picture: a canvas, and where in
   *  the picture it belongs. */
  async decodeBand(band, ids) {
    const { grid_size: side } = this.sizes;
    const top = band.start - band.above;
    const rows = ids.slice(top * side, band.end * side);
    const last = rows.slice(-side);
    for (let i = 0; i < band.below; i++) rows.push(...last);
    const values = await this.#decode(rows);
    const scale = this.sizes.gen_image_size / side;
    const whole = toImageData(values.data, values.dims[3], values.dims[2]);
    const context = new OffscreenCanvas(whole.width, (band.end - band.shown_from) * scale).getContext("2d");
    context.putImageData(whole, 0, (top - band.shown_from) * scale);
    return { canvas: context.canvas, y: band.shown_from * scale };
  }

  /** The picture of all ids. */
  async decode(ids) {
    const values = await this.#decode(ids);
    return toImageData(values.data, values.dims[3], values.dims[2]);
  }

  async #decode(ids) {
    const { grid_size: side } = this.sizes;
    const rows = integers(ids, [1, ids.length / side, side]);
    return (await this.run("decode_rows", { image_ids: rows })).pixel_values;
  }

  /** Room for so many tokens and some more, of which at least so many must be possible. */
  #cache(rows, length, more, least) {
    const most = this.sizes.context - least;
    if (length > most) {
      throw new Mistake(`That takes ${length} tokens of at most ${most}: use fewer words, or begin anew.`);
    }
    return new Cache(this.sizes, rows, length + more);
  }

  async #embed(graph, input, rows) {
    return (await this.run(graph, { [input]: integers(rows.flat(), [rows.length, rows[0].length]) })).embeds;
  }

  async #step(cache, embeds) {
    const found = await this.run("decoder", { inputs_embeds: embeds, past: cache.past });
    cache.put(found.new.data);
    return found.hidden_states;
  }

  /** The logits of each row. */
  async #logits(head, hidden) {
    const { data, dims } = (await this.run(head, { hidden_states: hidden })).logits;
    return Array.from({ length: dims[0] }, (_, row) => data.subarray(row * dims[1], (row + 1) * dims[1]));
  }

  /** Put what is seen of pictures in the place of their placeholders. */
  async #putPictures(embeds, ids, pictures) {
    const width = embeds.dims[2];
    const { size } = this.picture;
    let place = 0;
    for (const file of pictures) {
      const pixels = pixelValues(await openPicture(file), this.picture);
      const inputs = { pixel_values: new ort.Tensor("float32", pixels, [1, 3, size, size]) };
      const seen = (await this.run("embed_und", inputs)).embeds.data;
      for (let row = 0; row < seen.length / width; row++) {
        place = ids.indexOf(this.imagePad, place);
        embeds.data.set(seen.subarray(row * width, (row + 1) * width), place++ * width);
      }
    }
  }
}

function integers(values, dims) {
  return new ort.Tensor("int64", BigInt64Array.from(values, BigInt), dims);
}

/** bfloat16 numbers as fp32: the same ones. */
function widened(bytes) {
  const narrow = new Uint16Array(bytes.buffer, bytes.byteOffset, bytes.length / 2);
  return new Uint8Array(Uint32Array.from(narrow, (bits) => bits << 16).buffer);
}
