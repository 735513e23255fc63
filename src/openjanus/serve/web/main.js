// The page: a face that draws, a face that looks, and what was drawn before.

import { key, models, Trouble } from "./api.js";
import { at, make, note } from "./dom.js";
import { Draw } from "./draw.js";
import { History } from "./history.js";
import { Talk } from "./talk.js";

const history = new History();
let thumbnails = [];

const page = {
  model: () => at("model").value || null,
  meet,
  wantKey,
  async keep(drawing) {
    try {
      await history.add(drawing);
    } catch {
      note(at("draw-note"), "The browser has no room to keep this drawing: save it, or clear what was drawn before.");
    }
    await showHistory();
  },
  async talkAbout(blob, name) {
    await talk.take(blob, name);
    at("talk").scrollIntoView({ block: "start" });
  },
};
const draw = new Draw(page);
const talk = new Talk(page);

/** Ask the server what it has; whether it told, and what is wrong is said where it did not. */
async function meet() {
  let cards;
  try {
    cards = await models();
  } catch (error) {
    if (!(error instanceof Trouble)) throw error;
    if (error.status === 401) wantKey(key.get() === null ? null : "This key is not one of the server's.");
    else note(at("draw-note"), error.message);
    return false;
  }
  at("model").replaceChildren(...cards.map((card) => make("option", { value: card.id, textContent: card.id })));
  at("model-label").hidden = cards.length < 2;
  at("model-name").textContent = cards.length < 2 ? cards[0].id : "";
  at("model").onchange = () => draw.use(cards.find((card) => card.id === page.model()).drawing);
  draw.use(cards[0].drawing);
  at("key-open").hidden = key.get() === null;
  note(at("draw-note"), null);
  return true;
}

function wantKey(reason = null) {
  note(at("key-note"), reason);
  at("key-forget").hidden = key.get() === null;
  if (!at("key-dialog").open) at("key-dialog").showModal();
}

at("key-form").addEventListener("submit", () => {
  key.set(at("key").value.trim());
  at("key").value = "";
  meet();
});
at("key-open").onclick = () => wantKey();
at("key-cancel").onclick = () => at("key-dialog").close();
at("key-forget").onclick = () => {
  key.forget();
  location.reload();
};

async function showHistory() {
  const drawings = await history.all();
  thumbnails.forEach((address) => URL.revokeObjectURL(address));
  thumbnails = drawings.map((drawing) => URL.createObjectURL(drawing.pictures[0]));
  at("strip").replaceChildren(...drawings.map((drawing, index) => {
    const count = drawing.pictures.length;
    const parts = [make("img", { src: thumbnails[index], alt: "" })];
    if (count > 1) parts.push(make("span", { textContent: count, ariaHidden: "true" }));
    const name = `${drawing.prompt}, seed ${drawing.seed}`;
    const button = make("button", {
      type: "button",
      title: name,
      ariaLabel: `Show again: ${name}`,
      onclick: () => {
        draw.recall(drawing);
        at("draw").scrollIntoView({ block: "start" });
      },
    }, parts);
    return make("li", {}, [button]);
  }));
  at("history").hidden = at("tab-history").hidden = drawings.length === 0;
  at("history-where").textContent = history.lasts
    ? "Kept in this browser alone."
    : "Kept until this page is closed.";
}

let isAskedTwice = false;
at("history-clear").onclick = async () => {
  if (!isAskedTwice) {
    isAskedTwice = true;
    at("history-clear").textContent = "Really clear all?";
    setTimeout(() => {
      isAskedTwice = false;
      at("history-clear").textContent = "Clear";
    }, 4000);
    return;
  }
  isAskedTwice = false;
  at("history-clear").textContent = "Clear";
  await history.clear();
  await showHistory();
  at("prompt").focus();
};

addEventListener("keydown", (event) => {
  if (event.key !== "Escape" || at("key-dialog").open) return;
  if (draw.isRunning || talk.isRunning) event.preventDefault();
  draw.stop();
  talk.stop();
});

await Promise.all([meet(), history.open().then(showHistory)]);
document.documentElement.dataset.ready = "true"; // for those who drive the page
