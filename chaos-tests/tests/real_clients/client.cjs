// What a client may do, done by the library `ws`. The test at the other side plays the backend.

const assert = require('node:assert');
const { once } = require('node:events');
const WebSocket = require('ws');

const url = process.argv[2];

async function open(protocols) {
  const socket = new WebSocket(url, protocols);
  await once(socket, 'open');
  socket.next = async () => {
    const [data, isBinary] = await once(socket, 'message');
    return isBinary ? data : data.toString();
  };
  return socket;
}

async function talk() {
  const socket = await open(['other', 'chat']);
  assert.equal(socket.protocol, 'chat');
  socket.send('hello ü');
  assert.equal(await socket.next(), 'hello ü');
  const bytes = Buffer.from(Array.from({ length: 256 }, (_, byte) => byte));
  socket.send(bytes);
  assert.deepEqual(await socket.next(), bytes);
  for (const fin of [false, false, false, true]) {
    socket.send('a'.repeat(30000), { fin });
  }
  assert.equal(await socket.next(), 'a'.repeat(120000));
  socket.ping('are you there');
  const [pong] = await once(socket, 'pong');
  assert.equal(pong.toString(), 'are you there');
  socket.close(4321, 'bye bye');
  const [code, reason] = await once(socket, 'close');
  assert.deepEqual([code, reason.toString()], [4321, 'bye bye']);
}

async function beCalled() {
  const socket = await open(['chat']);
  socket.send(JSON.stringify({ action: 'whoami' }));
  const id = await socket.next();
  const called = socket.next();
  const closed = once(socket, 'close');
  console.log(id);
  assert.equal(await called, 'from the backend');
  const [code, reason] = await closed;
  assert.deepEqual([code, reason.toString()], [4000, 'enough']);
}

async function beRefused() {
  const [, response] = await once(new WebSocket(`${url}?refuse=1`), 'unexpected-response');
  assert.equal(response.statusCode, 403);
}

talk()
  .then(beCalled)
  .then(beRefused)
  .then(() => process.exit(0), (error) => {
    console.error(error);
    process.exit(1);
  });
