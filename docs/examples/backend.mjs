// A chat room: what one says, all others hear. Needs nothing but Node.js, 18 or later.
//
//     node backend.mjs 127.0.0.1:9000 http://127.0.0.1:8081/dev

import { randomUUID } from 'node:crypto';
import { createServer } from 'node:http';

const [listen, endpoint] = process.argv.slice(2);

// Who calls is said by a bearer token, where the API asks.
const headers = process.env.POSTHORN_TOKEN
  ? { authorization: `Bearer ${process.env.POSTHORN_TOKEN}` }
  : {};

// Names, by connection ID. Where several processes are the backend, this is a table that they share.
const members = new Map();

const handlers = {
  CONNECT(id, event) {
    const name = event.queryStringParameters?.name;
    if (!name) {
      return [400, { message: 'say who you are: ?name=…' }];
    }
    members.set(id, name);
    return [200];
  },

  async MESSAGE(id, event) {
    const said = JSON.parse(event.body);
    const text = JSON.stringify({ from: members.get(id), text: said.text });
    const others = [...members.keys()].filter((member) => member !== id);
    const heard = await Promise.all(others.map((member) => post(member, text)));
    return [200, { heard_by: heard.filter(Boolean).length }];
  },

  DISCONNECT(id) {
    // It may be told twice, so that it must not matter.
    members.delete(id);
    return [200];
  },
};

// Whether it arrived at the node that holds the connection. A key, one for each message, has what is
// posted again delivered once.
async function post(id, text) {
  const key = { 'amz-sdk-invocation-id': randomUUID() };
  for (let attempt = 0; attempt < 3; attempt += 1) {
    const response = await fetch(`${endpoint}/@connections/${id}`, {
      method: 'POST',
      headers: { ...headers, ...key },
      body: text,
    });
    if (response.ok) {
      return true;
    }
    if (response.status === 410) {
      // It is over for good. `$disconnect` is called as well, but this may come first.
      members.delete(id);
      return false;
    }
    if (response.status !== 503 && response.status !== 504) {
      throw new Error(`${response.status} ${await response.text()}`);
    }
    // Not delivered, or perhaps: try again.
    await new Promise((resolve) => setTimeout(resolve, 100 * 2 ** attempt * Math.random()));
  }
  return false;
}

createServer(async (request, response) => {
  let body = '';
  for await (const chunk of request) {
    body += chunk;
  }
  let [status, answer] = [500, undefined];
  try {
    const event = JSON.parse(body);
    const { eventType, connectionId } = event.requestContext;
    [status, answer] = await handlers[eventType](connectionId, event);
  } catch (error) {
    console.error(error);
  }
  response.writeHead(status).end(answer && JSON.stringify(answer));
}).listen(Number(listen.split(':')[1]), listen.split(':')[0], () => console.log('listening'));
