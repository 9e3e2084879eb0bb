// Real socket.io-clients, driven by one JSON command a line on stdin; what they observe is one JSON line each on stdout.
"use strict";
const readline = require("node:readline");
const { io } = require("socket.io-client");

const sockets = new Map();

function tell(name, saw, more) {
  process.stdout.write(JSON.stringify({ name, saw, ...more }) + "\n");
}

const commands = {
  connect({ name, url, options }) {
    const socket = io(url, { transports: ["websocket"], forceNew: true, reconnectionDelay: 50, reconnectionDelayMax: 200,
                             ...options });
    sockets.set(name, socket);
    socket.on("connect", () => tell(name, "connect", { id: socket.id, recovered: socket.recovered, pid: socket._pid }));
    socket.on("connect_error", error => tell(name, "connect_error", { message: error.message, active: socket.active }));
    socket.on("disconnect", (reason, details) => tell(name, "disconnect", {
      reason, active: socket.active, code: details && details.context && details.context.code,
      why: details && details.context && details.context.reason }));
    socket.onAny((event, ...args) => tell(name, "event", { event, args }));
    socket.io.on("reconnect_attempt", () => tell(name, "reconnect_attempt"));
    socket.io.on("ping", () => tell(name, "ping"));
  },
  emit({ name, args, ref, bytes }) {
    const socket = sockets.get(name);
    if (bytes) args = [...args, Buffer.from(bytes)];
    if (ref === undefined) socket.emit(...args);
    else socket.emit(...args, (...answer) => tell(name, "ack", { ref, args: answer }));
  },
  open({ name }) { sockets.get(name).connect(); },
  close({ name }) { sockets.get(name).disconnect(); },
};

readline.createInterface({ input: process.stdin })
  .on("line", line => { const command = JSON.parse(line); commands[command.do](command); })
  .on("close", () => process.exit(0));
