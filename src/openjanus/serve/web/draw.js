// The face that draws: words to pictures that grow row by row.

import { draw as ask } from "./api.js";
import {
  at, fit, make, note, onPress, png, refuse, sendOnEnter, slug, suggest, swap, tellTrouble,
} from "./dom.js";
import { Trouble } from "./trouble.js";

const IDEAS = [
  "a photo of a red car",
  "a photo of two dogs",
  "a photo of a banana left of a cup",
];
const COUNTS = [1, 2, 4, 6, 9];
const MOST_SEED = Number.MAX_SAFE_INTEGER; // a script's numbers skip some beyond
const DECIMALS = { guidance: 1, temperature: 2 };
const IS_WIDE = "(min-width: 861px)"; // as in style.css

/** The card "Draw". */
export class Draw {
  #page;
  #facts = null;
  #running = null;
  #shown = null; // the last drawing of which something was whole

  /** @param page what the parts share: `model()`, `choose(model)`, `meet()`, `keep(drawing)`,
   *  `talkAbout(blob, name)`, `wantKey()` */
  constructor(page) {
    this.#page = page;
    suggest(at("ideas"), IDEAS, (text) => {
      at("prompt").value = text;
      fit(at("prompt"));
      at("draw-form").requestSubmit();
    });
    at("settings").open = matchMedia(IS_WIDE).matches;
    sendOnEnter(at("prompt"));
    at("draw-form").addEventListener("submit", (event) => {
      event.preventDefault();
      this.draw();
    });
    onPress(at("draw-stop"), () => this.stop());
    at("seed-clear").onclick = () => { at("seed").value = ""; at("seed").focus(); };
    at("again").onclick = () => {
      this.#fill(this.#shown);
      at("seed").value = "";
      this.draw();
    };
    at("keep-seed").onclick = () => { at("seed").value = this.#shown.seed; at("seed").focus(); };
    for (const name of Object.keys(DECIMALS)) {
      at(name).addEventListener("input", () => this.#setNumber(name, at(name).valueAsNumber));
    }
  }

  get isRunning() {
    return this.#running !== null;
  }

  /** Take what a model does where nothing is asked for. */
  use(facts) {
    this.#facts = facts;
    at("guidance").max = Math.max(10, Math.ceil(facts.guidance_scale));
    this.#setNumber("guidance", facts.guidance_scale);
    this.#setNumber("temperature", facts.temperature);
    const before = this.#count();
    const counts = COUNTS.filter((count) => count <= facts.max_n);
    at("counts").replaceChildren(...counts.map((count) => make("label", {}, [
      make("input", { type: "radio", name: "count", value: count, defaultChecked: count === 1 }),
      make("span", { textContent: count }),
    ])));
    this.#setCount(before);
  }

  stop() {
    this.#running?.abort();
  }

  /** Draw what the form says, in place of what is drawn. */
  async draw() {
    const prompt = at("prompt").value.trim();
    if (this.#facts === null && !(await this.#page.meet())) return;
    if (prompt === "") return refuse(at("draw-note"), at("prompt"), "Say first what to draw.");
    const seed = at("seed").value.trim();
    if (!/^[0-9]*$/.test(seed) || Number(seed) > MOST_SEED) {
      const rule = `A seed is nothing, or a whole number up to ${MOST_SEED}: not “${seed}”.`;
      return refuse(at("draw-note"), at("seed"), rule);
    }
    this.stop();
    const running = (this.#running = new AbortController());
    const avoid = at("avoid").value.trim();
    const count = this.#count();
    const drawing = {
      prompt,
      avoid,
      model: this.#page.model(),
      guidance: Number(at("guidance").dataset.exact),
      temperature: Number(at("temperature").dataset.exact),
      seed: null,
      seconds: 0,
      pictures: new Array(count), // each when it is whole
    };
    const body = {
      model: drawing.model,
      prompt,
      n: count,
      partial_images: this.#facts.max_partial_images,
      guidance_scale: drawing.guidance,
      temperature: drawing.temperature,
      ...(seed !== "" && { seed: Number(seed) }),
      ...(avoid !== "" && { negative_prompt: avoid }),
    };
    const before = this.#shown;
    this.#begin(count);
    try {
      await this.#grow(drawing, body, running.signal);
      at("draw-said").textContent = `Drawn: ${prompt}, seed ${drawing.seed}.`;
      this.#show(drawing);
      await this.#page.keep(drawing);
    } catch (error) {
      if (running === this.#running) this.#fail(error, drawing, before);
    } finally {
      if (running === this.#running) this.#end();
    }
  }

  /** Show a drawing of before. */
  recall(drawing) {
    this.stop();
    this.#fill(drawing);
    this.#showWhole(drawing);
  }

  #showWhole(drawing) {
    this.#begin(drawing.pictures.length);
    drawing.pictures.forEach((blob, index) => this.#put(index, blob, 1));
    this.#leaveFrames();
    this.#end();
    this.#show(drawing);
    at("draw-said").textContent = "";
  }

  async #grow(drawing, body, signal) {
    const rows = this.#facts.max_partial_images + 1;
    const known = new Array(body.n).fill(0);
    const began = performance.now();
    for await (const event of ask(body, signal)) {
      const index = event.image_index;
      const isWhole = event.type === "image_generation.completed";
      const blob = await png(event.b64_json);
      if (signal.aborted) throw new DOMException("stopped", "AbortError");
      drawing.seed = event.seed;
      known[index] = isWhole ? rows : event.partial_image_index + 1;
      this.#put(index, blob, known[index] / rows);
      if (isWhole) drawing.pictures[index] = blob;
      drawing.seconds = (performance.now() - began) / 1000;
      const done = known.reduce((sum, one) => sum + one, 0);
      at("draw-bar").value = done / (rows * body.n);
      at("draw-state").textContent = body.n === 1
        ? `Row ${done} of ${rows}`
        : `${Math.floor((100 * done) / (rows * body.n))} % of ${body.n} pictures`;
    }
    if (drawing.pictures.filter(Boolean).length < body.n) {
      throw new Trouble("The server left before the drawing was whole.", { code: "lost" });
    }
  }

  #begin(count) {
    note(at("draw-note"), null);
    for (const image of at("grid").querySelectorAll("img")) URL.revokeObjectURL(image.src);
    at("stage-empty").hidden = at("caption").hidden = true;
    at("grid").hidden = false;
    at("grid").dataset.count = [1, 2, 4].includes(count) ? count : "many";
    at("grid").replaceChildren(...Array.from({ length: count }, () =>
      make("figure", {}, [make("div", { className: "frame growing" })])));
    at("draw-progress").hidden = false;
    at("draw-bar").removeAttribute("value");
    at("draw-state").textContent = "Reading your words…";
    at("draw-said").textContent = "Drawing.";
    swap(at("draw-go"), at("draw-stop"));
    if (!matchMedia(IS_WIDE).matches) at("stage").scrollIntoView({ block: "nearest" });
  }

  #end() {
    this.#running = null;
    at("draw-progress").hidden = true;
    swap(at("draw-stop"), at("draw-go"));
  }

  #leaveFrames() {
    for (const frame of at("grid").querySelectorAll(".frame.growing")) {
      frame.classList.replace("growing", "left");
    }
  }

  #fail(error, drawing, before) {
    this.#leaveFrames();
    if (drawing.pictures.some(Boolean)) this.#show(drawing); // those that are whole
    if (!at("grid").querySelector("img")) {
      // Nothing of it was seen: what was there before is there again.
      if (before !== null) this.#showWhole(before);
      else [at("grid").hidden, at("stage-empty").hidden] = [true, false];
    }
    at("draw-said").textContent = "";
    tellTrouble(at("draw-note"), error, this.#page.wantKey);
  }

  /** Show what there is of a picture: `share` of it, from the top. */
  #put(index, blob, share) {
    const frame = at("grid").children[index].firstChild;
    let image = frame.querySelector("img");
    if (image === null) frame.append((image = make("img", { alt: "" })));
    else URL.revokeObjectURL(image.src);
    image.src = URL.createObjectURL(blob);
    image.style.clipPath = share < 1 ? `inset(0 0 ${100 - 100 * share}% 0)` : "";
    frame.style.setProperty("--known", `${100 * share}%`);
    frame.classList.toggle("growing", share < 1);
  }

  #show(drawing) {
    this.#shown = drawing;
    const several = drawing.pictures.length > 1;
    drawing.pictures.forEach((blob, index) => {
      const figure = at("grid").children[index];
      const which = several ? `, picture ${index + 1} of ${drawing.pictures.length}` : "";
      const name = drawing.prompt + which;
      figure.querySelector("img").alt = `Drawing: ${name}`;
      figure.querySelector("figcaption")?.remove();
      figure.append(make("figcaption", {}, [
        make("button", {
          type: "button", className: "quiet",
          textContent: drawing.pictures.length > 4 ? "Talk" : "Talk about it",
          ariaLabel: `Talk about it: ${name}`,
          onclick: () => this.#page.talkAbout(blob, name),
        }),
        make("button", {
          type: "button", className: "quiet", textContent: "Save", ariaLabel: `Save: ${name}`,
          onclick: () => save(blob, drawing, several ? index + 1 : null),
        }),
      ]));
    });
    const parts = [`“${drawing.prompt}”`, `seed ${drawing.seed}`, `guidance ${drawing.guidance}`];
    if (drawing.model !== this.#page.model()) parts.push(`by ${drawing.model}`);
    if (drawing.avoid) parts.push(`without ${drawing.avoid}`);
    parts.push(`${drawing.seconds.toFixed(1)} s`);
    at("caption-text").textContent = parts.join(" · ");
    at("caption").hidden = false;
  }

  #fill(drawing) {
    at("prompt").value = drawing.prompt;
    at("avoid").value = drawing.avoid;
    this.#page.choose(drawing.model);
    this.#setNumber("guidance", drawing.guidance);
    this.#setNumber("temperature", drawing.temperature);
    this.#setCount(drawing.pictures.length);
    fit(at("prompt"));
  }

  /** How many pictures; one until the model is known. */
  #count() {
    return Number(document.querySelector("input[name=count]:checked")?.value ?? 1);
  }

  #setCount(count) {
    const found = document.querySelector(`input[name=count][value="${count}"]`);
    if (found !== null) found.checked = true;
  }

  /** A number beside its slider, which may have no such step: a model's own is kept as it is. */
  #setNumber(name, value) {
    at(name).value = value;
    at(name).dataset.exact = value;
    const text = value.toFixed(DECIMALS[name]);
    at(`${name}-value`).textContent = Number(text) === value ? text : value;
  }
}

function save(blob, drawing, number) {
  const address = URL.createObjectURL(blob);
  const tail = number === null ? "" : `-${number}`;
  make("a", { href: address, download: `${slug(drawing.prompt)}-seed-${drawing.seed}${tail}.png` }).click();
  setTimeout(() => URL.revokeObjectURL(address), 60_000);
}
