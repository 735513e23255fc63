/** What the server, or the way to it, says is wrong; `message` is for people. */
export class Trouble extends Error {
  constructor(message, { status = 0, code = null } = {}) {
    super(message);
    this.status = status;
    this.code = code;
  }
}
