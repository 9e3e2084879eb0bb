// sails.io.js over the socket.io-client that it was made for (or the package that the argument names), driven by one
// JSON command a line on stdin; what it observes is one JSON line each on stdout.
"use strict";
const readline = require("node:readline");
const io = require("sails.io.js")(require(process.argv[2]));
io.sails.autoConnect = false;
io.sails.environment = "production";  // no log

const sockets = new Map();
const handlers = new Map();

function tell(name, saw, more) {
  process.stdout.write(JSON.stringify({ name, saw, ...more }) + "\n");
}

// What a program does that wants to have its id and its rooms again.
function comeBack(socket) {
  let session;
  socket.on("bus:session", secret => { session = secret; });
  socket.on("disconnect", () => { socket.query = `session=${session}&${io.sails.sdk.versionString}`; });
}

const commands = {
  connect({ name, url, options, returns }) {
    const socket = io.sails.connect(url, { multiplex: false, reconnectionDelay: 50, ...options });
    sockets.set(name, socket);
    if (returns) comeBack(socket);
    socket.on("connect", () => tell(name, "connect", { id: socket._raw.id }));
    socket.on("disconnect", reason => tell(name, "disconnect", { reason, active: !!socket._raw.subs }));
    socket.on("error", error => tell(name, "connect_error", { message: error.message || error }));
  },
  on({ name, event }) {
    const handler = (...args) => tell(name, "event", { event, args });
    handlers.set(name + event, handler);
    sockets.get(name).on(event, handler);
  },
  off({ name, event }) { sockets.get(name).off(event, handlers.get(name + event)); },
  // io.socket.get(url, data, cb) and its like, or io.socket.request(options, cb).
  ask({ name, ref, verb, args }) {
    sockets.get(name)[verb](...args, (body, jwr) => tell(name, "jwr", {
      ref, body: body instanceof Error ? body.message : body, statusCode: jwr.statusCode, headers: jwr.headers,
      failed: !!jwr.error }));
  },
  raw({ name, ref, args }) {
    sockets.get(name)._raw.emit(...args, (...answer) => tell(name, "ack", { ref, args: answer }));
  },
  close({ name }) { sockets.get(name).disconnect(); },
};

readline.createInterface({ input: process.stdin })
  .on("line", line => { const command = JSON.parse(line); commands[command.do](command); })
  .on("close", () => process.exit(0));
