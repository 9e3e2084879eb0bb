// Real socket.io-clients, driven by one JSON command a line on stdin; what they observe is one JSON line each on stdout.
// The argument is the package: socket.io-client, or socket.io-client-2 for the clients of Socket.IO 2.
"use strict";
const readline = require("node:readline");
const client = require(process.argv[2]);

const sockets = new Map();

function tell(name, saw, more) {
  process.stdout.write(JSON.stringify({ name, saw, ...more }) + "\n");
}

function watch4(name, socket) {
  socket.on("connect", () => tell(name, "connect", { id: socket.id, recovered: socket.recovered, pid: socket._pid }));
  socket.on("connect_error", error => tell(name, "connect_error", {
    message: error.message, data: error.data, active: socket.active }));
  socket.on("disconnect", (reason, details) => tell(name, "disconnect", {
    reason, active: socket.active, code: details && details.context && details.context.code,
    why: details && details.context && details.context.reason }));
  socket.onAny((event, ...args) => tell(name, "event", { event, args }));
  socket.io.on("reconnect_attempt", () => tell(name, "reconnect_attempt"));
  socket.io.on("ping", () => tell(name, "ping"));
}

function watch2(name, socket, returns) {
  // What a program does that wants to have its id and its rooms again.
  socket.on("bus:session", session => {
    if (returns) socket.io.opts.query = { ...socket.io.opts.query, session };
    tell(name, "connect", { id: socket.id, session });
  });
  for (const event of ["error", "connect_error"])
    socket.on(event, error => tell(name, "connect_error", { message: error.message || error, active: !!socket.subs }));
  socket.on("disconnect", reason => tell(name, "disconnect", { reason, active: !!socket.subs }));
  socket.on("reconnect_attempt", () => tell(name, "reconnect_attempt"));
  socket.on("pong", () => tell(name, "ping"));
  const onevent = socket.onevent;  // there is no onAny yet
  socket.onevent = packet => {
    const [event, ...args] = packet.data;
    if (event !== "bus:session") tell(name, "event", { event, args });
    onevent.call(socket, packet);
  };
}

const commands = {
  connect({ name, url, options, returns }) {
    const connect = client.io || client;
    const socket = connect(url, { transports: ["websocket"], forceNew: true, reconnectionDelay: 50,
                                  reconnectionDelayMax: 200, ...options });
    sockets.set(name, socket);
    if (socket.onAny) watch4(name, socket);
    else watch2(name, socket, returns !== false);
  },
  emit({ name, args, ref, bytes }) {
    const socket = sockets.get(name);
    if (bytes) args = [...args, Buffer.from(bytes)];
    if (ref === undefined) socket.emit(...args);
    else socket.emit(...args, (...answer) => tell(name, "ack", { ref, args: answer }));
  },
  reply({ name, event, answer }) { sockets.get(name).on(event, (data, acknowledge) => acknowledge(answer)); },
  open({ name }) { sockets.get(name).connect(); },
  close({ name }) { sockets.get(name).disconnect(); },
};

readline.createInterface({ input: process.stdin })
  .on("line", line => { const command = JSON.parse(line); commands[command.do](command); })
  .on("close", () => process.exit(0));
