// What was drawn before: in this browser's database, or where it has none, until the page is closed.

const MOST = 60;

/** @typedef {{id?: number, prompt: string, seed: number, model: string, guidance: number,
 *   temperature: number, avoid: string, seconds: number, pictures: Blob[]}} Drawing */

export class History {
  #database = null;
  #memory = [];
  #next = 1;

  /** Whether it outlives the page. */
  get lasts() {
    return this.#database !== null;
  }

  async open() {
    try {
      this.#database = await new Promise((resolve, reject) => {
        const request = indexedDB.open("openjanus", 1);
        request.onupgradeneeded = () =>
          request.result.createObjectStore("drawings", { keyPath: "id", autoIncrement: true });
        request.onsuccess = () => resolve(request.result);
        request.onerror = () => reject(request.error);
        request.onblocked = () => reject(new Error("blocked"));
      });
      this.#database.onclose = () => { this.#database = null; }; // its data were cleared by hand
    } catch {
      this.#database = null; // said on the page: see `lasts`
    }
  }

  /** All drawings, the newest first. @returns {Promise<Drawing[]>} */
  async all() {
    if (this.#database === null) return [...this.#memory].reverse();
    const found = await this.#run("readonly", (store) => store.getAll());
    return found.reverse();
  }

  /** Keep a drawing, and forget the oldest of too many. @param {Drawing} drawing */
  async add(drawing) {
    if (this.#database === null) {
      this.#memory.push({ ...drawing, id: this.#next++ });
      this.#memory.splice(0, Math.max(0, this.#memory.length - MOST));
      return;
    }
    await this.#run("readwrite", (store) => store.add(drawing));
    const keys = await this.#run("readonly", (store) => store.getAllKeys());
    for (const key of keys.slice(0, Math.max(0, keys.length - MOST))) {
      await this.#run("readwrite", (store) => store.delete(key));
    }
  }

  async clear() {
    this.#memory = [];
    if (this.#database !== null) await this.#run("readwrite", (store) => store.clear());
  }

  #run(mode, what) {
    return new Promise((resolve, reject) => {
      const transaction = this.#database.transaction("drawings", mode);
      const request = what(transaction.objectStore("drawings"));
      // Not the request's own success: that comes before there is known to be room.
      transaction.oncomplete = () => resolve(request.result);
      transaction.onabort = () => reject(transaction.error ?? request.error);
    });
  }
}
