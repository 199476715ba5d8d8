"""A whole backend: it is told what happens, and thanks for every message.

    python3 hello.py 127.0.0.1:9000
"""

import json
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Backend(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        event = json.loads(self.rfile.read(int(self.headers["content-length"])))
        context = event["requestContext"]
        print(context["eventType"], context["connectionId"], event.get("body"))
        answer = b"thank you"
        self.send_response(200)
        self.send_header("content-length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_):
        pass


host, port = sys.argv[1].split(":")
server = ThreadingHTTPServer((host, int(port)), Backend)
print("listening", flush=True)
server.serve_forever()
