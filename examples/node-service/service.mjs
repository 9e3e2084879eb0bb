// Orders, in Node: a client of NATS is all that it needs. NATS_URL=nats://localhost:4222 node service.mjs
import { connect, errors, headers } from "@nats-io/transport-node";

const nats = await connect({ servers: process.env.NATS_URL ?? "nats://localhost:4222", maxReconnectAttempts: -1 });
const bus = process.env.ROOMCAST_PREFIX ?? "bus";
const orders = new Map([["42", { id: "42", status: "placed" }]]);

class Refusal extends Error {
  constructor(status, code, message) {
    super(message);
    Object.assign(this, { status, code });
  }
}

// -- the bus ----------------------------------------------------------------------------------------------------------

async function ask(subject, body) {
  const answer = (await nats.request(subject, JSON.stringify(body), { timeout: 5000 })).json();
  if (answer.error) throw new Refusal(500, answer.error.code, answer.error.message);
  return answer;
}

/** A change of one socket: {join: […], leave: […]}. Its edge does it; while it moves or is away, any edge helps. */
async function change(id, changes) {
  try {
    const answer = await ask(`${bus}.socket.${id}`, changes);
    if (!answer.elsewhere) return answer;
  } catch (error) {
    if (!(error instanceof errors.RequestError && error.isNoResponders())) throw error;
  }
  return await ask(`${bus}.api.change`, { id, ...changes });
}

/** An event to a room, but not to the socket that caused it. These names need no escaping; docs/bus.md says which do. */
function broadcast(room, event, data, omit) {
  const fields = headers();
  if (omit) fields.set("Roomcast-Except", omit);
  nats.publish(`${bus}.room.${room}.${event}`, JSON.stringify(data), { headers: fields });
}

/** Answers clients that emit this event. Copies of the service share the work: they are one queue group. */
function action(name, handler) {
  nats.subscribe(`${bus}.action.${name}`, {
    queue: "orders",
    callback: async (failure, message) => {
      if (failure) return console.error(failure);
      try {
        const { data, socket } = message.json();
        message.respond(JSON.stringify((await handler(data, socket)) ?? null));
      } catch (error) {
        refuse(message, error);
      }
    },
  });
}

function refuse(message, error) {
  if (!(error instanceof Refusal)) {
    console.error(error); // the cause is for the log, not for the client
    error = new Refusal(500, "internal", "the orders service failed");
  }
  const fields = headers();
  fields.set("Nats-Service-Error-Code", String(error.status));
  fields.set("Nats-Service-Error", error.message);
  const body = { error: { code: error.code, message: error.message } };
  message.respond(JSON.stringify(body), { headers: fields });
}

// -- the orders -------------------------------------------------------------------------------------------------------

function find(data) {
  const id = data?.orderId;
  if (typeof id !== "string" || !/^[\w-]{1,40}$/.test(id)) throw new Refusal(400, "bad_request", "orderId: expected a text");
  const order = orders.get(id);
  if (!order) throw new Refusal(404, "not_found", "no such order");
  return order;
}

action("orders.subscribe", async (data, socket) => {
  const order = find(data);
  await change(socket.id, { join: [`order-${order.id}`] });
  return orders.get(order.id); // read behind the join: nothing that changes from now on is missed
});

action("orders.update-status", async (data, socket) => {
  const order = { ...find(data), status: String(data.status) };
  orders.set(order.id, order);
  broadcast(`order-${order.id}`, "orderUpdated", order, socket.id);
  return order;
});

await nats.flush();
console.log("the orders service answers");
for (const signal of ["SIGINT", "SIGTERM"]) process.once(signal, () => nats.drain());
await nats.closed();
