// Words to ids and back: byte-level BPE, from "tokenizer" of model.json.

// Where GPT-2's tokenizer and its many relatives cut a text into words.
const WORDS = new RegExp(
  "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\p{White_Space}\\p{L}\\p{N}]+" +
    "|\\p{White_Space}+(?!\\P{White_Space})|\\p{White_Space}+",
  "gu",
);

// What Python's str.strip takes away.
const LEADING_SPACE = /^[\p{White_Space}\x1c-\x1f]+/u;
const TRAILING_SPACE = /[\p{White_Space}\x1c-\x1f]+$/u;

/** A text without white space at its ends. */
export const strip = (text) => text.replace(LEADING_SPACE, "").replace(TRAILING_SPACE, "");

export class Tokenizer {
  #ids;
  #texts;
  #ranks;
  #added;
  #verbatim;
  #special;
  #addedPattern;
  #split;
  #symbols = byteSymbols();
  #bytes = new Map(this.#symbols.map((symbol, byte) => [symbol, byte]));
  #known = new Map(); // the ids of words met so far

  /** @param {{tokens: [string, number][], merges: [string, string][], added: [string, number][],
   *    special: number[], split: string | null}} data */
  constructor(data) {
    this.#ids = new Map(data.tokens);
    this.#texts = new Map(data.tokens.map(([text, id]) => [id, text]));
    this.#ranks = new Map(data.merges.map(([left, right], rank) => [`${left} ${right}`, rank]));
    this.#added = new Map(data.added);
    this.#verbatim = new Map(data.added.map(([text, id]) => [id, text]));
    this.#special = new Set(data.special);
    // Of two that begin at one place the longer one is meant.
    const longest = [...this.#added.keys()].sort((a, b) => b.length - a.length);
    this.#addedPattern = longest.length === 0 ? null : new RegExp(longest.map(escaped).join("|"), "gu");
    this.#split = data.split === null ? null : new RegExp(data.split, "gu");
  }

  /** Ids of a text; a special token written out in it becomes its id. */
  encode(text) {
    const ids = [];
    for (const [part, isAdded] of cutAt(text, this.#addedPattern)) {
      if (isAdded) ids.push(this.#added.get(part));
      else this.#encodeWords(part, ids);
    }
    return ids;
  }

  #encodeWords(text, ids) {
    for (const [part] of cutAt(text, this.#split)) {
      for (const [word] of part.matchAll(WORDS)) {
        let found = this.#known.get(word);
        if (found === undefined) {
          found = this.#merged(word).map((symbol) => this.#ids.get(symbol));
          this.#known.set(word, found);
        }
        ids.push(...found);
      }
    }
  }

  /** The bytes of a word, joined as was learned: each time the neighbours that were learned first. */
  #merged(word) {
    const symbols = Array.from(new TextEncoder().encode(word), (byte) => this.#symbols[byte]);
    const rankAt = (i) => this.#ranks.get(`${symbols[i]} ${symbols[i + 1]}`) ?? Infinity;
    const ranks = Array.from({ length: symbols.length - 1 }, (_, i) => rankAt(i));
    for (;;) {
      let best = 0;
      for (let i = 1; i < ranks.length; i++) if (ranks[i] < ranks[best]) best = i;
      if (!(ranks[best] < Infinity)) return symbols;
      symbols.splice(best, 2, symbols[best] + symbols[best + 1]);
      ranks.splice(best, 1);
      if (best > 0) ranks[best - 1] = rankAt(best - 1);
      if (best < ranks.length) ranks[best] = rankAt(best);
    }
  }

  /** Text of ids, special tokens left out; bytes that are no whole character are U+FFFD. */
  decode(ids) {
    let text = "";
    let bytes = [];
    const flush = () => {
      text += new TextDecoder("utf-8", { ignoreBOM: true }).decode(new Uint8Array(bytes));
      bytes = [];
    };
    for (const id of ids) {
      if (this.#special.has(id)) continue;
      if (this.#verbatim.has(id)) {
        flush();
        text += this.#verbatim.get(id);
      } else {
        for (const symbol of this.#texts.get(id) ?? "") bytes.push(this.#bytes.get(symbol));
      }
    }
    flush();
    return text;
  }
}

/** A reply as it grows: what later ids could still take away is held back. */
export class TextStream {
  #tokenizer;
  #ids = [];
  #shown = "";

  constructor(tokenizer) {
    this.#tokenizer = tokenizer;
  }

  /** Take an id and return the new text, often empty. */
  push(id) {
    this.#ids.push(id);
    return this.#show(this.#decoded().replace(/\ufffd+$/u, ""));
  }

  /** The rest, when no id comes any more. */
  finish() {
    return this.#show(this.#decoded());
  }

  #decoded() {
    return this.#tokenizer.decode(this.#ids).replace(LEADING_SPACE, "");
  }

  #show(text) {
    const piece = text.replace(TRAILING_SPACE, "").slice(this.#shown.length);
    this.#shown += piece;
    return piece;
  }
}

/** The parts of a text between the matches of a pattern, and these: [part, whether it is one]. */
function* cutAt(text, pattern) {
  let done = 0;
  for (const match of pattern === null ? [] : text.matchAll(pattern)) {
    if (match.index > done) yield [text.slice(done, match.index), false];
    yield [match[0], true];
    done = match.index + match[0].length;
  }
  if (done < text.length) yield [text.slice(done), false];
}

/** The printable character that byte-level tokenizers write for each byte. */
function byteSymbols() {
  const isPrintable = (byte) =>
    (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte <= 0xac) || byte >= 0xae;
  let hidden = 0;
  return Array.from({ length: 256 }, (_, byte) =>
    String.fromCodePoint(isPrintable(byte) ? byte : 256 + hidden++));
}

const escaped = (text) => text.replace(/[\\^$.*+?()[\]{}|/]/g, "\\$&");
