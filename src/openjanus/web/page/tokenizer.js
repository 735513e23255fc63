// Words to ids and back: byte-level BPE, from the "tokenizer" of model.json.

// What GPT-2's tokenizer and its many relatives cut words at, with Unicode's own white space.
const WORDS = new RegExp(
  "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\p{White_Space}\\p{L}\\p{N}]+" +
    "|\\p{White_Space}+(?!\\P{White_Space})|\\p{White_Space}+",
  "gu",
);

/** The printable character that byte-level tokenizers write for each byte. */
function byteSymbols() {
  const isPrintable = (b) =>
    (b >= 0x21 && b <= 0x7e) || (b >= 0xa1 && b <= 0xac) || (b >= 0xae && b <= 0xff);
  let hidden = 0;
  return Array.from({ length: 256 }, (_, b) =>
    String.fromCodePoint(isPrintable(b) ? b : 256 + hidden++),
  );
}

const escaped = (text) => text.replace(/[\\^$.*+?()[\]{}|/-]/g, "\\$&");

export class Tokenizer {
  /** @param data {tokens: [[text, id]], merges: [[left, right]], added: [[text, id]],
   *    verbatim: [id], special: [id], split: a pattern or null} */
  constructor(data) {
    this.ids = new Map(data.tokens);
    this.symbols = byteSymbols();
    this.bytes = new Map(this.symbols.map((symbol, byte) => [symbol, byte]));
    this.ranks = new Map(data.merges.map(([a, b], rank) => [`${a} ${b}`, rank]));
    this.texts = new Map(data.tokens.map(([text, id]) => [id, text]));
    this.added = new Map(data.added);
    this.verbatim = new Map(data.added.map(([text, id]) => [id, text]));
    this.special = new Set(data.special);
    // Of two that begin at one place the longer one is meant.
    const longest = [...this.added.keys()].sort((a, b) => b.length - a.length);
    this.addedPattern = longest.length ? new RegExp(longest.map(escaped).join("|"), "gu") : null;
    this.split = data.split === null ? null : new RegExp(data.split, "gu");
    this.known = new Map(); // ids of the words met so far
  }

  /** Ids of a text; a special token written out in it becomes its id. */
  encode(text) {
    const ids = [];
    for (const [part, isAdded] of pieces(text, this.addedPattern)) {
      if (isAdded) ids.push(this.added.get(part));
      else for (const word of this.words(part)) ids.push(...this.encodeWord(word));
    }
    return ids;
  }

  *words(text) {
    for (const [part] of pieces(text, this.split)) {
      for (const [word] of part.matchAll(WORDS)) yield word;
    }
  }

  encodeWord(word) {
    let ids = this.known.get(word);
    if (ids === undefined) {
      const bytes = new TextEncoder().encode(word);
      const symbols = this.merge(Array.from(bytes, (byte) => this.symbols[byte]));
      ids = symbols.map((symbol) => this.ids.get(symbol));
      this.known.set(word, ids);
    }
    return ids;
  }

  /** Join the neighbours that were learned first, until none are left that were learned. */
  merge(symbols) {
    for (;;) {
      let best = -1;
      let least = Infinity;
      for (let i = 0; i + 1 < symbols.length; i++) {
        const rank = this.ranks.get(`${symbols[i]} ${symbols[i + 1]}`) ?? Infinity;
        if (rank < least) [best, least] = [i, rank];
      }
      if (best < 0) return symbols;
      symbols.splice(best, 2, symbols[best] + symbols[best + 1]);
    }
  }

  /** Text of ids, without special tokens; bytes that are no whole character are U+FFFD. */
  decode(ids) {
    let text = "";
    let bytes = [];
    const flush = () => {
      text += new TextDecoder("utf-8", { ignoreBOM: true }).decode(new Uint8Array(bytes));
      bytes = [];
    };
    for (const id of ids) {
      if (this.special.has(id)) continue;
      if (this.verbatim.has(id)) {
        flush();
        text += this.verbatim.get(id);
      } else {
        for (const symbol of this.texts.get(id) ?? "") bytes.push(this.bytes.get(symbol));
      }
    }
    flush();
    return text;
  }
}

/** A text cut at the matches of a pattern: [part, whether it is a match]. */
function* pieces(text, pattern) {
  let done = 0;
  for (const match of pattern === null ? [] : text.matchAll(pattern)) {
    if (match.index > done) yield [text.slice(done, match.index), false];
    yield [match[0], true];
    done = match.index + match[0].length;
  }
  if (done < text.length) yield [text.slice(done), false];
}

/** A reply as it grows: what later ids could still take away is held back. */
export class TextStream {
  constructor(tokenizer) {
    this.tokenizer = tokenizer;
    this.ids = [];
    this.text = "";
  }

  /** Take an id; the new text, often empty. */
  push(id) {
    this.ids.push(id);
    return this.show(this.decoded().replace(/\ufffd+$/u, ""));
  }

  /** The rest, when no id comes any more. */
  finish() {
    return this.show(this.decoded());
  }

  decoded() {
    return this.tokenizer.decode(this.ids).replace(LEADING_SPACE, "");
  }

  show(text) {
    const piece = text.replace(TRAILING_SPACE, "").slice(this.text.length);
    this.text += piece;
    return piece;
  }
}

// What Python's str.strip takes away.
const LEADING_SPACE = /^[\p{White_Space}\x1c-\x1f]+/u;
const TRAILING_SPACE = /[\p{White_Space}\x1c-\x1f]+$/u;

/** A text without the white space at its ends. */
export const strip = (text) => text.replace(LEADING_SPACE, "").replace(TRAILING_SPACE, "");
