// A WebSocket that comes back. For browsers and Node.js 22; earlier ones need the package ws.
//
//     const client = connect('wss://ws.example.com/prod?name=ann', { onMessage: console.log });
//     client.send(JSON.stringify({ action: 'say', text: 'hello' }));

const FIRST_WAIT_MS = 500;
const WAIT_MAX_MS = 30_000;
// It lasted so long that the next failure is another one.
const STABLE_MS = 10_000;

// What a server says when it would say the same the next time: the client broke a rule, or is not wanted.
// 1000 is an end in order; codes from 4000 on are your backend's: add those after which to stay away.
const FINAL = new Set([1000, 1002, 1003, 1007, 1008, 1009]);

export function connect(url, { onMessage = () => {}, onOpen = () => {}, onEnd = () => {} } = {}) {
  let socket;
  let attempts = 0;
  let isWanted = true;

  function open() {
    // The URL may be a function, where it has a token that must be new each time.
    socket = new WebSocket(typeof url === 'function' ? url() : url);
    let stable;
    socket.onopen = () => {
      stable = setTimeout(() => { attempts = 0; }, STABLE_MS);
      // A new connection, with a new ID: say again what the backend is to know.
      onOpen(socket);
    };
    socket.onmessage = (event) => onMessage(event.data);
    // The end follows, and says more.
    socket.onerror = () => {};
    // Also where the handshake was refused; then the code is 1006.
    socket.onclose = ({ code, reason }) => {
      clearTimeout(stable);
      if (!isWanted || FINAL.has(code)) {
        onEnd(code, reason);
        return;
      }
      setTimeout(() => isWanted && open(), wait());
    };
  }

  // By chance, so that clients that lost the same node do not come back at the same moment.
  function wait() {
    const longest = Math.min(WAIT_MAX_MS, FIRST_WAIT_MS * 2 ** attempts);
    attempts += 1;
    return longest * Math.random();
  }

  open();
  return {
    // False where there is no connection: whether to send it later, or not at all, is yours to say.
    send(text) {
      const isOpen = socket.readyState === WebSocket.OPEN;
      if (isOpen) {
        socket.send(text);
      }
      return isOpen;
    },
    close() {
      isWanted = false;
      socket.close(1000);
    },
  };
}
