// The page: a face that draws, a face that looks, and what was drawn before.

import { key, models } from "./api.js";
import { at, make, note, onPress, tellTrouble } from "./dom.js";
import { Draw } from "./draw.js";
import { History } from "./history.js";
import { Talk } from "./talk.js";

const history = new History();
let thumbnails = [];

const page = {
  model: () => at("model").value || null,
  choose,
  meet,
  wantKey,
  async keep(drawing) {
    try {
      await history.add(drawing);
    } catch (error) {
      const why = error.name === "QuotaExceededError" ? "has no room to keep" : `cannot keep (${error.message})`;
      note(at("draw-note"), `The browser ${why} this drawing: save it, or clear what was drawn before.`);
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

/** Ask the server what it has; whether it told. What is wrong is said in the card that asked. */
async function meet(card = "draw") {
  let cards;
  try {
    cards = await models();
  } catch (error) {
    tellTrouble(at(`${card}-note`), error, wantKey);
    return false;
  }
  const before = page.model();
  at("model").replaceChildren(...cards.map((card) => make("option", { value: card.id, textContent: card.id })));
  at("model-label").hidden = cards.length < 2;
  at("model-name").textContent = cards.length < 2 ? cards[0].id : "";
  choose(before);
  const use = () => draw.use(cards.find((card) => card.id === page.model()).drawing);
  at("model").onchange = use;
  use();
  at("key-open").hidden = key.get() === null;
  note(at("draw-note"), null);
  note(at("talk-note"), null);
  return true;
}

/** Take a model, where the server has it. */
function choose(id) {
  if (Array.from(at("model").options).some((option) => option.value === id)) at("model").value = id;
}

/** Ask for a key, or for another one. */
function wantKey() {
  askKey(key.get() === null ? null : "This key is not one of the server's.");
}

function askKey(reason = null) {
  note(at("key-note"), reason);
  at("key-forget").hidden = key.get() === null;
  if (!at("key-dialog").open) at("key-dialog").showModal();
}

at("key-form").addEventListener("submit", (event) => {
  const given = at("key").value.trim();
  if (!/^[\x21-\x7e]+$/.test(given)) {
    event.preventDefault();
    note(at("key-note"), "A key is made of plain letters, digits and signs, without spaces: copy it once more.");
    return;
  }
  key.set(given);
  at("key").value = "";
  meet();
});
at("key-open").onclick = () => askKey();
at("key-cancel").onclick = () => at("key-dialog").close();
at("key-forget").onclick = () => {
  key.forget();
  location.reload();
};

async function showHistory() {
  let drawings;
  try {
    drawings = await history.all();
  } catch (error) {
    at("history").hidden = at("tab-history").hidden = false;
    at("history-where").textContent = `The browser cannot read what was drawn before (${error.message}): clear it.`;
    return;
  }
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
onPress(at("history-clear"), async () => {
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
});

addEventListener("keydown", (event) => {
  if (event.key !== "Escape" || event.isComposing || at("key-dialog").open) return;
  if (draw.isRunning || talk.isRunning) event.preventDefault();
  draw.stop();
  talk.stop();
});

await Promise.all([meet(), history.open().then(showHistory)]);
document.documentElement.dataset.ready = "true"; // for those who drive the page
