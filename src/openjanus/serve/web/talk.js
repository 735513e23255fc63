// The face that looks: several turns of talk about one picture, or about none.

import { chat } from "./api.js";
import { at, fit, make, note, onPress, refuse, sendOnEnter, suggest, swap, tellTrouble } from "./dom.js";
import { dataAddress } from "./picture.js";

const QUESTIONS = ["What is in the picture?", "What colour is it?", "Describe the picture."];

/** The card "Talk". */
export class Talk {
  #page;
  #picture = null; // a data address
  #turns = [];
  #running = null;
  #taken = 0; // pictures so far, of which the last is meant

  /** @param page what the parts share: `model()`, `meet(card)`, `wantKey()` */
  constructor(page) {
    this.#page = page;
    sendOnEnter(at("question"));
    at("talk-form").addEventListener("submit", (event) => {
      event.preventDefault();
      const question = at("question").value.trim();
      if (question === "") refuse(at("talk-note"), at("question"), "Write a question first.");
      else this.ask(question);
    });
    onPress(at("talk-stop"), () => this.stop());
    at("talk-new").onclick = () => { this.#forget(); at("question").focus(); };
    at("picture-remove").onclick = () => { this.#lookAt(null, ""); at("picture-choose").focus(); };
    at("picture-choose").onclick = () => at("picture-file").click();
    at("picture-file").onchange = () => {
      const [file] = at("picture-file").files;
      if (file) this.take(file, file.name);
      at("picture-file").value = "";
    };
    this.#listenForFiles();
    this.#lookAt(null, "");
  }

  get isRunning() {
    return this.#running !== null;
  }

  stop() {
    this.#running?.abort();
  }

  /** Talk about a picture from now on. @param {Blob} file @param {string} name */
  async take(file, name) {
    const number = ++this.#taken;
    try {
      const address = await dataAddress(file);
      if (number !== this.#taken) return; // a small one may be read before a large one
      this.#lookAt(address, name);
      at("question").focus();
    } catch (error) {
      if (number === this.#taken) note(at("talk-note"), error.message);
    }
  }

  /** Ask something more. */
  async ask(question) {
    if (this.#page.model() === null && !(await this.#page.meet("talk"))) return;
    if (this.isRunning) return;
    const running = (this.#running = new AbortController());
    if (at("question").value.trim() === question) at("question").value = ""; // another one was begun
    fit(at("question"));
    note(at("talk-note"), null);
    this.#turns.push({ role: "user", content: question });
    this.#say("user", question);
    const bubble = this.#say("assistant", "");
    bubble.classList.add("writing");
    this.#busy(true);
    try {
      const body = { model: this.#page.model(), messages: this.#messages() };
      for await (const text of chat(body, running.signal)) {
        const log = at("log");
        const isAtEnd = log.scrollHeight - log.scrollTop - log.clientHeight < 40; // or somebody reads above
        bubble.textContent += text;
        if (isAtEnd) log.scrollTop = log.scrollHeight;
      }
      this.#turns.push({ role: "assistant", content: bubble.textContent });
      if (bubble.textContent === "") bubble.textContent = "(nothing)";
      at("talk-said").textContent = bubble.textContent;
    } catch (error) {
      this.#fail(error, bubble, question);
    } finally {
      bubble.classList.remove("writing");
      if (running === this.#running) this.#busy(false);
    }
  }

  /** The turns as the protocol has them: the picture stands in the first of the user's. */
  #messages() {
    if (this.#picture === null) return this.#turns;
    const [first, ...rest] = this.#turns;
    const content = [
      { type: "image_url", image_url: { url: this.#picture } },
      { type: "text", text: first.content },
    ];
    return [{ role: "user", content }, ...rest];
  }

  #fail(error, bubble, question) {
    if (!bubble.isConnected) return; // another conversation has begun
    if (bubble.textContent !== "") {
      bubble.classList.add("stopped"); // what there is stays, and may be talked about
      this.#turns.push({ role: "assistant", content: bubble.textContent });
      if (error.name !== "AbortError") tellTrouble(at("talk-note"), error, this.#page.wantKey);
      return;
    }
    this.#turns.pop();
    bubble.previousSibling.remove();
    bubble.remove();
    at("log").hidden = at("talk-new").hidden = this.#turns.length === 0;
    if (at("question").value === "") at("question").value = question;
    fit(at("question"));
    tellTrouble(at("talk-note"), error, this.#page.wantKey);
  }

  #busy(isBusy) {
    if (!isBusy) this.#running = null;
    at("log").setAttribute("aria-busy", isBusy);
    if (isBusy) swap(at("talk-go"), at("talk-stop"));
    else swap(at("talk-stop"), at("talk-go"));
  }

  #say(role, text) {
    const bubble = make("div", { className: `turn ${role}`, textContent: text });
    at("log").append(bubble);
    at("log").hidden = at("talk-new").hidden = false;
    at("log").scrollTop = at("log").scrollHeight;
    return bubble;
  }

  #lookAt(address, name) {
    this.#picture = address;
    this.#taken++;
    this.#forget();
    const has = address !== null;
    at("looked").hidden = !has;
    at("drop-hint").hidden = has;
    at("drop").classList.toggle("full", has);
    at("picture-choose").textContent = has ? "Another" : "Choose a picture";
    if (has) at("looked-image").src = address;
    at("looked-name").textContent = name;
    at("question").placeholder = has ? "Ask about it…" : "Ask, with a picture or without…";
    suggest(at("questions"), has ? QUESTIONS : [], (text) => this.ask(text));
    if (has) at("talk-said").textContent = "The picture is there: ask about it.";
  }

  #forget() {
    this.stop();
    this.#turns = [];
    at("log").replaceChildren();
    at("log").hidden = at("talk-new").hidden = true;
    note(at("talk-note"), null);
  }

  #listenForFiles() {
    const hasFiles = (event) => event.dataTransfer?.types.includes("Files");
    addEventListener("dragover", (event) => {
      if (!hasFiles(event)) return;
      event.preventDefault();
      at("drop").classList.add("over");
    });
    addEventListener("dragleave", (event) => {
      if (event.relatedTarget === null) at("drop").classList.remove("over");
    });
    addEventListener("drop", (event) => {
      if (!hasFiles(event)) return;
      event.preventDefault();
      at("drop").classList.remove("over");
      const [file] = event.dataTransfer.files;
      if (file) this.take(file, file.name);
    });
    addEventListener("paste", (event) => {
      const [file] = event.clipboardData?.files ?? [];
      if (!file) return; // words go where they are pasted
      event.preventDefault();
      this.take(file, "A pasted picture");
    });
  }
}
